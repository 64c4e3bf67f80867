//! What a host and a firmware on a board send each other, over one channel of bytes for each direction.
//!
//! Everything is a frame: a [`Frame`] of four bytes and as many bytes as it says. The host sends a [`Request`], then as
//! many inputs; for each of them the firmware sends what its layers compute, if the host asked for that, the output, and
//! whether the model is sure of it. Channels block: whoever is faster waits for the other.

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A [`Request`].
    Request = 1,
    /// A quantised input of the model.
    Input = 2,
    /// What one layer has computed.
    Layer = 3,
    /// The output of the model.
    Output = 4,
    /// Whether the model is sure of that output: one byte, 0 or 1. The last frame of an inference.
    Sure = 5,
}

/// What stands before the bytes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What they are.
    pub kind: Kind,
    /// How many, less than 2^24.
    pub bytes: usize,
}

impl Frame {
    /// Bytes of this itself: the kind, and the length in little-endian order.
    pub const BYTES: usize = 4;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let [a, b, c, _] = (self.bytes as u32).to_le_bytes();
        [self.kind as u8, a, b, c]
    }

    /// What [`Frame::encode`] wrote; `None` for a kind that there is not.
    pub fn decode([kind, a, b, c]: [u8; Self::BYTES]) -> Option<Self> {
        use Kind::{Input, Layer, Output, Request, Sure};
        let kinds = [Request, Input, Layer, Output, Sure];
        let kind = kinds.into_iter().find(|known| *known as u8 == kind)?;
        let bytes = u32::from_le_bytes([a, b, c, 0]) as usize;
        Some(Self { kind, bytes })
    }
}

/// What a host asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// How many inputs follow.
    pub inferences: u32,
    /// Whether what every layer computes is wanted too.
    pub layers: bool,
}

impl Request {
    /// Bytes of the frame: the number in little-endian order, and a byte of flags.
    pub const BYTES: usize = 5;
    /// The variable `ESPALIER_ASKED` of the firmware, where a host that will send a request leaves this before it lets
    /// the firmware run. It has no initial value, so that a firmware that nobody watches finds another one, and does not
    /// wait.
    pub const ASKED: u32 = 0x6B73_6121;

    /// As bytes.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.inferences.to_le_bytes();
        [a, b, c, d, self.layers.into()]
    }

    /// What [`Request::encode`] wrote; `None` where there are flags of a newer version.
    pub fn decode([a, b, c, d, flags]: [u8; Self::BYTES]) -> Option<Self> {
        let inferences = u32::from_le_bytes([a, b, c, d]);
        let layers = flags == 1;
        (flags <= 1).then_some(Self { inferences, layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back() {
        for kind in [
            Kind::Request,
            Kind::Input,
            Kind::Layer,
            Kind::Output,
            Kind::Sure,
        ] {
            for bytes in [0, 1, 0xFF, 0x12_3456, 0xFF_FFFF] {
                let frame = Frame { kind, bytes };
                assert_eq!(Frame::decode(frame.encode()), Some(frame));
            }
        }
        assert_eq!(Frame::decode([0, 1, 0, 0]), None);
        assert_eq!(Frame::decode([6, 1, 0, 0]), None);
    }

    #[test]
    fn requests_come_back() {
        for layers in [false, true] {
            let request = Request {
                inferences: 0x0102_0304,
                layers,
            };
            assert_eq!(Request::decode(request.encode()), Some(request));
        }
        assert_eq!(Request::decode([0, 0, 0, 0, 2]), None);
    }
}
