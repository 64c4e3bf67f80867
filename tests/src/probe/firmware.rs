//! What the firmware of a board does, as the host sees it: it starts, opens its channels, tests itself, answers what it
//! is asked and leaves a report. One step at a time, in the memory of the target.

use shared::report::{Exit, Report};
use shared::request::{Frame, Kind, Request};
use shared::slots::{self, Slot};
use shared::{Engine, Model};

use super::target::Memory;

/// The messages of the log; the index of each in its section is one more.
pub const WORDS: &[&str] = &["started", "self-test done", "asked", "answered"];

/// Its variables for the host.
pub const RTT: u64 = 0x2000_0100;
/// See [`RTT`].
pub const EXIT: u64 = 0x2000_0200;
/// See [`RTT`].
pub const BOOTS: u64 = 0x2000_0204;
/// See [`RTT`].
pub const ASKED: u64 = 0x2000_0208;
/// See [`RTT`].
pub const REPORT: u64 = 0x2000_0400;

/// Buffers of its channels: log, answers, questions. The last two are shorter than a frame may be.
const BUFFERS: [(u64, u32); 3] = [(0x2000_1000, 64), (0x2000_1100, 48), (0x2000_1200, 40)];

/// Ways in which it does not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// It does not reach its first line.
    NeverStarts,
    /// It tests itself for ever.
    Hangs,
    /// It is reset when it has answered this many.
    ResetAfter(u32),
    /// Something halts it when it has answered this many.
    HaltsAfter(u32),
    /// It ends like this.
    Ends(Exit),
    /// Its report is no report.
    NoReport,
    /// It computes one element of this layer wrong, and what follows from that right.
    WrongLayer(usize),
    /// Its answers are of another protocol.
    Gibberish,
}

/// What it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    SelfTest,
    Request,
    Inputs,
    Done,
}

/// A firmware that runs.
#[derive(Debug)]
pub struct Firmware {
    phase: Phase,
    bug: Option<Bug>,
    log: Vec<u8>,
    answers: Vec<u8>,
    questions: Vec<u8>,
    request: Request,
    answered: u32,
}

/// What a step comes to, for the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It goes on.
    Running,
    /// The chip is reset.
    Reset,
    /// The core is halted.
    Halted,
}

impl Firmware {
    /// As it is after a reset.
    pub fn new(bug: Option<Bug>) -> Self {
        Self {
            phase: Phase::Start,
            bug,
            log: Vec::new(),
            answers: Vec::new(),
            questions: Vec::new(),
            request: Request {
                inferences: 0,
                layers: false,
            },
            answered: 0,
        }
    }

    /// The next thing that it does.
    pub fn step(&mut self, memory: &mut Memory, model: &[u8]) -> Stepped {
        if self.bug == Some(Bug::NeverStarts) {
            return Stepped::Running;
        }
        if self.phase == Phase::Start {
            start(memory);
            self.say(0);
            self.phase = Phase::SelfTest;
            return Stepped::Running;
        }
        send(memory, 0, &mut self.log);
        send(memory, 1, &mut self.answers);
        receive(memory, &mut self.questions);
        if !self.log.is_empty() || !self.answers.is_empty() {
            return Stepped::Running; // the host is slower
        }
        match (self.bug, self.phase) {
            (Some(Bug::Hangs), Phase::SelfTest) => {}
            (Some(Bug::Ends(exit)), Phase::SelfTest) => self.end(memory, exit),
            (Some(Bug::ResetAfter(count)), Phase::Inputs) if count == self.answered => {
                return Stepped::Reset;
            }
            (Some(Bug::HaltsAfter(count)), Phase::Inputs) if count == self.answered => {
                return Stepped::Halted;
            }
            _ => self.work(memory, model),
        }
        Stepped::Running
    }

    fn work(&mut self, memory: &mut Memory, model: &[u8]) {
        match self.phase {
            Phase::Start | Phase::Done => {}
            Phase::SelfTest => {
                self.say(1);
                let asked = memory.word(ASKED) == Request::ASKED;
                memory.set_word(ASKED, 0);
                self.phase = if asked { Phase::Request } else { Phase::Inputs };
            }
            Phase::Request => {
                if let Some(body) = self.question(Kind::Request, Request::BYTES) {
                    let body = body.first_chunk().copied().unwrap_or_default();
                    self.request = Request::decode(body).expect("a request of this version");
                    self.say(2);
                    self.phase = Phase::Inputs;
                }
            }
            Phase::Inputs if self.answered == self.request.inferences => {
                self.end(memory, Exit::Success);
            }
            Phase::Inputs => self.answer(memory, model),
        }
    }

    fn answer(&mut self, memory: &mut Memory, region: &[u8]) {
        let [Some(stored), _] = slots::stored(region) else {
            return self.end(memory, Exit::ModelRefused);
        };
        let model = stored.parse().expect("a model that was checked");
        let width = model.input_shape().len();
        if let Some(frame) = self.next_frame()
            && frame.bytes != width
        {
            return self.end(memory, Exit::WrongInputs);
        }
        if let Some(input) = self.question(Kind::Input, width) {
            let input: Vec<i8> = input.into_iter().map(|byte| byte as i8).collect();
            self.infer(&model, &input);
            self.answered += 1;
            self.say(3);
        }
    }

    fn infer(&mut self, model: &Model, input: &[i8]) {
        let mut arena = vec![0; model.arena_bytes()];
        let mut engine = Engine::new(model, &mut arena).expect("as large as the model says");
        let mut layers = Vec::new();
        let fill = |to: &mut [i8]| to.copy_from_slice(input);
        let output = engine.infer_observed(fill, |layer, output| {
            let mut output = unsigned(output);
            if self.bug == Some(Bug::WrongLayer(layer)) {
                output[0] ^= 1;
            }
            layers.push(output);
        });
        let output = match self.bug {
            Some(Bug::WrongLayer(_)) => layers.last().cloned().unwrap_or_default(),
            Some(Bug::Gibberish) => vec![0],
            _ => unsigned(output),
        };
        let layers = layers.iter().filter(|_| self.request.layers);
        for layer in layers {
            self.answers.extend(frame(Kind::Layer, layer));
        }
        self.answers.extend(frame(Kind::Output, &output));
        let sure = engine.is_sure().into();
        self.answers.extend(frame(Kind::Sure, &[sure]));
    }

    fn end(&mut self, memory: &mut Memory, exit: Exit) {
        let report = Report {
            slot: Slot::A,
            sequence: 1,
            fell_back: false,
            self_tests: 2,
            self_test_failures: 0,
            inferences: self.answered,
            ticks: 640,
            stack_bytes: 100,
            layer_ticks: [400, 240].into_iter().collect(),
        };
        let mut bytes = [0; Report::MAX_BYTES];
        report.encode(&mut bytes);
        if self.bug == Some(Bug::NoReport) {
            bytes = [0xFF; Report::MAX_BYTES];
        }
        memory.set(REPORT, &bytes);
        memory.set(EXIT, &[exit.code()]);
        self.phase = Phase::Done;
    }

    fn say(&mut self, word: u16) {
        self.log.extend((word + 1).to_le_bytes());
    }

    fn next_frame(&self) -> Option<Frame> {
        Frame::decode(*self.questions.first_chunk()?)
    }

    /// The bytes of the next frame, once all are there.
    fn question(&mut self, kind: Kind, bytes: usize) -> Option<Vec<u8>> {
        let frame = self.next_frame()?;
        assert_eq!(frame, Frame { kind, bytes });
        let all = Frame::BYTES + bytes;
        let body = self.questions.get(Frame::BYTES..all)?.to_vec();
        self.questions.drain(..all);
        Some(body)
    }
}

fn unsigned(bytes: &[i8]) -> Vec<u8> {
    bytes.iter().map(|&byte| byte as u8).collect()
}

fn frame(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let bytes_of = Frame {
        kind,
        bytes: bytes.len(),
    };
    [&bytes_of.encode(), bytes].concat()
}

/// Initial values of variables, the count of starts, and RTT's control block, whose identifier comes last.
fn start(memory: &mut Memory) {
    memory.set(EXIT, &[Exit::RUNNING]);
    memory.set_word(BOOTS, memory.word(BOOTS).wrapping_add(1));
    memory.set_word(RTT + 16, 2);
    memory.set_word(RTT + 20, 1);
    for (index, (buffer, size)) in BUFFERS.into_iter().enumerate() {
        let words = [0, buffer as u32, size, 0, 0, 0];
        for (word, value) in words.into_iter().enumerate() {
            memory.set_word(channel(index) + 4 * word as u64, value);
        }
    }
    memory.set(RTT, b"SEGGER RTT\0\0\0\0\0\0");
}

fn channel(index: usize) -> u64 {
    RTT + 24 + 24 * index as u64
}

/// Moves what fits into a channel up.
fn send(memory: &mut Memory, index: usize, bytes: &mut Vec<u8>) {
    let (buffer, size) = BUFFERS[index];
    let (write, read) = (channel(index) + 12, channel(index) + 16);
    while let Some(&byte) = bytes.first() {
        let at = memory.word(write);
        let next = (at + 1) % size;
        if next == memory.word(read) {
            return;
        }
        memory.set(buffer + u64::from(at), &[byte]);
        memory.set_word(write, next);
        bytes.remove(0);
    }
}

/// Takes all that is in the channel down.
fn receive(memory: &mut Memory, bytes: &mut Vec<u8>) {
    let (buffer, size) = BUFFERS[2];
    let (write, read) = (channel(2) + 12, channel(2) + 16);
    while memory.word(read) != memory.word(write) {
        let at = memory.word(read);
        bytes.extend(memory.get(buffer + u64::from(at), 1));
        memory.set_word(read, (at + 1) % size);
    }
}
