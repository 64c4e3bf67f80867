//! The host's side of `shared::request`: sends inputs as fast as the firmware takes them and collects its answers.

use shared::request::{Frame, Kind, Request};

use super::link::Link;
use super::rtt::{Rtt, RttError};
use crate::device::verify::Questions;

/// The channel of the answers, up, and that of the questions, down.
const ANSWERS: usize = 1;
const QUESTIONS: usize = 0;

/// One request on its way.
pub(super) struct Exchange {
    questions: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    /// Bytes of one output.
    output: usize,
    /// What came back.
    pub answers: Answers,
}

/// What a firmware answered, one inference behind the other.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub outputs: Vec<i8>,
    pub sure: Vec<bool>,
    pub layers: Vec<i8>,
}

/// Why an exchange stops.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The channel.
    Rtt(RttError),
    /// What came through it.
    Answers(&'static str),
}

impl From<RttError> for Trouble {
    fn from(error: RttError) -> Self {
        Self::Rtt(error)
    }
}

impl Exchange {
    /// Of inputs that all have `input` bytes, for a model whose output has `output`.
    pub fn new(questions: Questions, input: usize, output: usize) -> Self {
        let inputs = questions.inputs.chunks_exact(input.max(1));
        let request = Request {
            inferences: inputs.len() as u32,
            layers: questions.layers,
        };
        let mut bytes = frame(Kind::Request, &request.encode());
        for input in inputs {
            bytes.extend(frame(Kind::Input, bytemuck::cast_slice(input)));
        }
        Self {
            questions: bytes,
            sent: 0,
            received: Vec::new(),
            output,
            answers: Answers::default(),
        }
    }

    /// Sends and receives what the channels have room for and hold; says whether that was anything.
    pub fn turn(&mut self, link: &mut dyn Link, rtt: &mut Rtt) -> Result<bool, Trouble> {
        let waiting = self.questions.get(self.sent..).unwrap_or_default();
        let sent = match waiting {
            [] => 0,
            bytes => rtt.write(link, QUESTIONS, bytes)?,
        };
        self.sent += sent;
        let received = rtt.read(link, ANSWERS)?;
        self.received.extend(&received);
        while self.take()? {}
        Ok(sent > 0 || !received.is_empty())
    }

    /// Takes the next frame, if all of it is there.
    fn take(&mut self) -> Result<bool, Trouble> {
        let Some((head, rest)) = self.received.split_first_chunk() else {
            return Ok(false);
        };
        let frame = Frame::decode(*head).ok_or(Trouble::Answers("no such kind of frame"))?;
        let Some(body) = rest.get(..frame.bytes) else {
            return Ok(false);
        };
        let signed = body.iter().map(|&byte| byte as i8);
        match frame.kind {
            Kind::Layer => self.answers.layers.extend(signed),
            Kind::Output if frame.bytes == self.output => self.answers.outputs.extend(signed),
            Kind::Output => return Err(Trouble::Answers("an output of another size")),
            Kind::Sure => self.answers.sure.extend(body.iter().map(|&byte| byte != 0)),
            Kind::Request | Kind::Input => {
                return Err(Trouble::Answers("a question, not an answer"));
            }
        }
        let end = Frame::BYTES + frame.bytes;
        self.received.drain(..end);
        Ok(true)
    }
}

fn frame(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let head = Frame {
        kind,
        bytes: bytes.len(),
    };
    [&head.encode(), bytes].concat()
}
