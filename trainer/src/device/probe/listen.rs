//! Hears a running firmware until its report is there, and finds out what is wrong when it does not come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use shared::report::{Exit, Report};
use shared::request::Request;

use super::error::ProbeError;
use super::exchange::{Exchange, Trouble};
use super::link::{Link, Registers};
use super::program::{Places, Program};
use super::rtt::{Full, Rtt, RttError};
use crate::device::log::{Decoder, Words};

/// The channel of the log.
const LOG: usize = 0;
/// How long a firmware may take to make its channels.
const START: Duration = Duration::from_secs(5);
/// Lines of the log that an error shows.
const LAST_LINES: usize = 12;
/// Between two looks at a target that has nothing to say.
const PAUSE: Duration = Duration::from_millis(2);

/// How long to listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience<'o> {
    pub limit: Duration,
    pub stop: &'o AtomicBool,
    pub board: &'static str,
}

/// A firmware that somebody hears.
pub(super) struct Listener<'l> {
    link: &'l mut dyn Link,
    places: Places,
    rtt: Rtt,
    words: &'l Words,
    decoder: Decoder<'l>,
    on_log: &'l mut dyn FnMut(&str),
    last: VecDeque<String>,
    /// What the firmware's count of its starts has to be.
    boots: u32,
}

impl<'l> Listener<'l> {
    /// Starts the firmware from a reset. `asks` tells it to wait for a request.
    pub fn start(
        link: &'l mut dyn Link,
        program: &'l Program,
        asks: bool,
        wait: Duration,
        on_log: &'l mut dyn FnMut(&str),
    ) -> Result<Self, ProbeError> {
        let places = program.places;
        prepare(link, &places, asks)?;
        link.run().map_err(ProbeError::Lost)?;
        let rtt = open(link, &places, wait.min(START))?;
        Self::hearing(link, program, rtt, 1, on_log)
    }

    /// Joins a firmware that runs.
    pub fn join(
        link: &'l mut dyn Link,
        program: &'l Program,
        on_log: &'l mut dyn FnMut(&str),
    ) -> Result<Self, ProbeError> {
        let places = program.places;
        let rtt = open(link, &places, START)?;
        let boots = link.read_u32(places.boots).map_err(ProbeError::Lost)?;
        Self::hearing(link, program, rtt, boots, on_log)
    }

    fn hearing(
        link: &'l mut dyn Link,
        program: &'l Program,
        rtt: Rtt,
        boots: u32,
        on_log: &'l mut dyn FnMut(&str),
    ) -> Result<Self, ProbeError> {
        rtt.when_full(link, LOG, Full::Wait)
            .map_err(ProbeError::Lost)?;
        Ok(Self {
            link,
            places: program.places,
            rtt,
            words: &program.words,
            decoder: program.words.decoder(),
            on_log,
            last: VecDeque::new(),
            boots,
        })
    }

    /// Listens until the report is there, and hands over what the firmware asks for and answers.
    pub fn report(
        &mut self,
        patience: Patience,
        mut exchange: Option<&mut Exchange>,
    ) -> Result<Report, ProbeError> {
        let end = Instant::now() + patience.limit;
        loop {
            // First the code: what was said and answered before it is there then.
            let exit = self.exit()?;
            let mut moved = self.turn()?;
            if let Some(exchange) = exchange.as_deref_mut() {
                let turned = exchange.turn(self.link, &mut self.rtt);
                moved |= self.checked(turned)?;
            }
            match exit {
                Some(exit) if !moved => return self.verdict(exit),
                Some(_) => continue,
                None => {}
            }
            self.check_running()?;
            if patience.stop.load(Ordering::Relaxed) {
                return Err(ProbeError::Interrupted(patience.board));
            }
            if Instant::now() >= end {
                return Err(self.hung(patience.limit));
            }
            if !moved {
                sleep(PAUSE);
            }
        }
    }

    /// Shows the log until `stop`, across restarts.
    pub fn monitor(&mut self, stop: &AtomicBool) -> Result<(), ProbeError> {
        while !stop.load(Ordering::Relaxed) {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => sleep(PAUSE),
                Err(ProbeError::Restarted { .. }) => {
                    (self.on_log)("(the board was reset)");
                    self.rtt = open(self.link, &self.places, START)?;
                    self.decoder = self.words.decoder();
                    self.boots = self.word(self.places.boots)?;
                    let waits = self.rtt.when_full(self.link, LOG, Full::Wait);
                    waits.map_err(ProbeError::Lost)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Leaves the firmware as if nobody had listened: it runs, and does not wait for a reader of its log.
    pub fn leave(self) {
        // A board that is gone can not be left.
        let _ = self.rtt.when_full(self.link, LOG, Full::Skip);
        let _ = self.link.run();
    }

    /// The exit code, once there is one.
    fn exit(&mut self) -> Result<Option<u8>, ProbeError> {
        let mut code = [0];
        let read = self.link.read(self.places.exit, &mut code);
        read.map_err(ProbeError::Lost)?;
        Ok(Some(code[0]).filter(|&code| code != Exit::RUNNING))
    }

    /// Hands over what the log has got, and says whether it has.
    fn turn(&mut self) -> Result<bool, ProbeError> {
        let heard = self.rtt.read(self.link, LOG);
        let bytes = self.checked(heard.map_err(Trouble::Rtt))?;
        for line in self.decoder.lines(&bytes) {
            (self.on_log)(&line);
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
        let restarted = self.word(self.places.boots)? != self.boots;
        match restarted {
            true => Err(self.restarted()),
            false => Ok(!bytes.is_empty()),
        }
    }

    fn checked<T>(&self, result: Result<T, Trouble>) -> Result<T, ProbeError> {
        result.map_err(|error| match error {
            Trouble::Rtt(RttError::Link(error)) => ProbeError::Lost(error),
            Trouble::Rtt(RttError::Changed) => self.restarted(),
            Trouble::Answers(why) => ProbeError::Answers(why),
        })
    }

    fn check_running(&mut self) -> Result<(), ProbeError> {
        let halted = self.link.is_halted().map_err(ProbeError::Lost)?;
        // It may have ended since the code was read.
        if !halted || self.exit()?.is_some() {
            return Ok(());
        }
        Err(ProbeError::Halted {
            registers: self.link.registers().map_err(ProbeError::Lost)?,
            log: self.log(),
        })
    }

    fn hung(&mut self, limit: Duration) -> ProbeError {
        match stand(self.link) {
            Ok(registers) => ProbeError::Hung {
                limit,
                registers,
                log: self.log(),
            },
            Err(error) => error,
        }
    }

    fn restarted(&self) -> ProbeError {
        ProbeError::Restarted { log: self.log() }
    }

    fn log(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }

    fn word(&mut self, address: u64) -> Result<u32, ProbeError> {
        self.link.read_u32(address).map_err(ProbeError::Lost)
    }

    /// What the firmware's exit code and report come to.
    fn verdict(&mut self, exit: u8) -> Result<Report, ProbeError> {
        let bytes = self.link.read_vec(self.places.report, Report::MAX_BYTES);
        match Exit::from_code(exit) {
            Some(Exit::Success | Exit::SelfTestFailed) => {
                Report::decode(&bytes.map_err(ProbeError::Lost)?).ok_or(ProbeError::NoReport)
            }
            Some(exit) => Err(ProbeError::Stopped {
                exit,
                log: self.log(),
            }),
            None => Err(ProbeError::NoReport),
        }
    }
}

/// Resets the chip and leaves in its RAM what the firmware is to find there; what it left itself is forgotten.
fn prepare(link: &mut dyn Link, places: &Places, asks: bool) -> Result<(), ProbeError> {
    let asked = if asks { Request::ASKED } else { 0 };
    let mut done = || {
        link.reset_and_halt()?;
        Rtt::clear(link, places.rtt)?;
        link.write(places.exit, &[Exit::RUNNING])?;
        link.write_u32(places.boots, 0)?;
        link.write_u32(places.asked, asked)
    };
    done().map_err(ProbeError::Lost)
}

/// Starts the firmware as if there were no host.
pub(super) fn restart_alone(link: &mut dyn Link, program: &Program) -> Result<(), ProbeError> {
    prepare(link, &program.places, false)?;
    link.run().map_err(ProbeError::Lost)
}

/// The channels, once the firmware has made them.
fn open(link: &mut dyn Link, places: &Places, wait: Duration) -> Result<Rtt, ProbeError> {
    let end = Instant::now() + wait;
    loop {
        if let Some(rtt) = Rtt::open(link, places.rtt).map_err(ProbeError::Lost)? {
            return Ok(rtt);
        }
        if Instant::now() >= end {
            let registers = stand(link)?;
            return Err(ProbeError::NoLog {
                waited: wait,
                registers,
            });
        }
        sleep(PAUSE);
    }
}

/// Where the core is just now. It stays halted.
fn stand(link: &mut dyn Link) -> Result<Registers, ProbeError> {
    let mut look = || {
        link.halt()?;
        link.registers()
    };
    look().map_err(ProbeError::Lost)
}
