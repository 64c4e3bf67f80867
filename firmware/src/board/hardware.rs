//! Boards on the desk: logs, inputs and answers by RTT, the report in RAM where the debug probe reads it.
//!
//! A host finds everything by name, resets the chip, leaves what it wants in `ESPALIER_ASKED` and lets it run. Without a
//! host the firmware starts, tests itself and rests, and waits for nobody.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use cortex_m::interrupt::{self, Mutex};
use defmt::error;
use rtt_target::{ChannelMode, DownChannel, UpChannel, rtt_init, set_defmt_channel};
use shared::report::{Exit, Report};
use shared::request::{Frame, Kind, Request};

use super::SYSTICK_HZ;

defmt::timestamp!(
    "{=u64:us}",
    crate::clock::now() * 1_000 / (SYSTICK_HZ / 1_000)
);

/// Exit code and report, by their names: see `shared::report`.
#[unsafe(export_name = "ESPALIER_EXIT")]
static EXIT: AtomicU8 = AtomicU8::new(Exit::RUNNING);
#[unsafe(export_name = "ESPALIER_REPORT")]
static REPORT: [AtomicU8; Report::MAX_BYTES] = [const { AtomicU8::new(0) }; Report::MAX_BYTES];

/// How often this has started since a host wrote 0 here. Nothing sets it at a start, as the next one.
#[unsafe(export_name = "ESPALIER_BOOTS")]
#[unsafe(link_section = ".uninit.boots")]
static BOOTS: AtomicU32 = AtomicU32::new(0);
/// [`Request::ASKED`] where a host will send a request.
#[unsafe(export_name = "ESPALIER_ASKED")]
#[unsafe(link_section = ".uninit.asked")]
static ASKED: AtomicU32 = AtomicU32::new(0);

/// The channels of [`Requests`], until it takes them.
static CHANNELS: Mutex<Cell<Option<(DownChannel, UpChannel)>>> = Mutex::new(Cell::new(None));

/// Opens the channels, of which the log is the first. A full log drops messages until a host says that it reads them.
pub fn start() {
    // Before the channels, which are what a host waits for.
    BOOTS.store(
        BOOTS.load(Ordering::SeqCst).wrapping_add(1),
        Ordering::SeqCst,
    );
    // `rtt_init!` would panic a second time. There is none, and this firmware has no words for it.
    macro_rules! panic {
        ($($words:tt)*) => {};
    }
    let channels = rtt_init! {
        up: {
            0: { size: 1024, name: "defmt" }
            1: { size: 512, mode: ChannelMode::BlockIfFull, name: "answers" }
        }
        down: {
            0: { size: 512, name: "questions" }
        }
    };
    set_defmt_channel(channels.up.0);
    let others = (channels.down.0, channels.up.1);
    interrupt::free(|section| CHANNELS.borrow(section).set(Some(others)));
}

/// What a host asks for, and the answers.
pub struct Requests {
    questions: RefCell<DownChannel>,
    answers: RefCell<UpChannel>,
    request: Request,
}

impl Requests {
    /// Waits for the request, where a host has said that it will send one. Each input says how long it is.
    pub fn open(_input_bytes: usize) -> Result<Self, Exit> {
        let channels = interrupt::free(|section| CHANNELS.borrow(section).take());
        let (questions, answers) = channels.ok_or(Exit::HostFiles)?;
        let mut requests = Self {
            questions: RefCell::new(questions),
            answers: RefCell::new(answers),
            request: Request {
                inferences: 0,
                layers: false,
            },
        };
        if ASKED.load(Ordering::SeqCst) == Request::ASKED {
            ASKED.store(0, Ordering::SeqCst);
            requests.request = requests.receive()?;
        }
        Ok(requests)
    }

    fn receive(&self) -> Result<Request, Exit> {
        self.expect(Kind::Request, Request::BYTES)?;
        let mut bytes = [0; Request::BYTES];
        self.fill(&mut bytes)?;
        Request::decode(bytes).ok_or_else(|| broken("read the request"))
    }

    /// How many inputs there are.
    pub fn count(&self) -> usize {
        self.request.inferences as usize
    }

    /// The next input.
    pub fn read(&self, input: &mut [i8]) -> Result<(), Exit> {
        self.expect(Kind::Input, input.len())?;
        self.fill(bytemuck::cast_slice_mut(input))
    }

    /// Whether the host wants what every layer computes.
    pub fn wants_layers(&self) -> bool {
        self.request.layers
    }

    /// What a layer has computed.
    pub fn write_layer(&self, output: &[i8]) -> Result<(), Exit> {
        self.send(Kind::Layer, bytemuck::cast_slice(output))
    }

    /// The answer to an input.
    pub fn write(&self, output: &[i8]) -> Result<(), Exit> {
        self.send(Kind::Output, bytemuck::cast_slice(output))
    }

    /// Whether the model is sure of it.
    pub fn write_sure(&self, sure: bool) -> Result<(), Exit> {
        self.send(Kind::Sure, &[sure.into()])
    }

    /// Waits for a frame of this kind and length.
    fn expect(&self, kind: Kind, bytes: usize) -> Result<(), Exit> {
        let mut head = [0; Frame::BYTES];
        self.fill(&mut head)?;
        match Frame::decode(head) {
            Some(frame) if frame.kind != kind => Err(broken("read the next frame")),
            Some(frame) if frame.bytes != bytes => {
                error!(
                    "a question of {=usize} bytes, not {=usize}",
                    frame.bytes, bytes
                );
                Err(Exit::WrongInputs)
            }
            Some(_) => Ok(()),
            None => Err(broken("read the next frame")),
        }
    }

    /// Waits for so many bytes.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Exit> {
        let mut questions = self
            .questions
            .try_borrow_mut()
            .map_err(|_| Exit::HostFiles)?;
        let mut filled = 0;
        while let Some(rest @ [_, ..]) = bytes.get_mut(filled..) {
            filled += questions.read(rest);
        }
        Ok(())
    }

    /// Sends a frame; waits where the host is slower.
    fn send(&self, kind: Kind, bytes: &[u8]) -> Result<(), Exit> {
        let mut answers = self.answers.try_borrow_mut().map_err(|_| Exit::HostFiles)?;
        let head = Frame {
            kind,
            bytes: bytes.len(),
        };
        answers.write(&head.encode());
        answers.write(bytes);
        Ok(())
    }
}

fn broken(what: &str) -> Exit {
    error!("can not {=str} of the host", what);
    Exit::HostFiles
}

/// Leaves the report where the probe looks for it.
pub fn save(report: &Report) -> Result<(), Exit> {
    let mut bytes = [0; Report::MAX_BYTES];
    report.encode(&mut bytes);
    for (cell, byte) in REPORT.iter().zip(bytes) {
        cell.store(byte, Ordering::Relaxed);
    }
    Ok(())
}

/// Says that all is there, and rests, unless it crashed: then the watchdog resets the board. Awake, because some chips
/// answer no probe while their core sleeps.
pub fn exit(exit: Exit) -> ! {
    EXIT.store(exit.code(), Ordering::SeqCst);
    loop {
        if exit != Exit::Crashed {
            super::feed();
        }
        cortex_m::asm::nop();
    }
}
