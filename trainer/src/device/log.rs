//! Decodes the firmware's defmt log.

use defmt_decoder::{DecodeError, Frame, StreamDecoder, Table};

/// The words for what the firmware sends, which only its ELF has.
pub struct Words(Table);

/// The ELF has no defmt log in it that this can read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the firmware's ELF has no defmt log that this version reads ({reason}): build it again with `espalier run`"
)]
pub struct WordsError {
    /// What the decoder says.
    reason: String,
}

impl Words {
    /// The words in an ELF.
    pub fn from_elf(elf: &[u8]) -> Result<Self, WordsError> {
        match Table::parse(elf) {
            Ok(Some(table)) => Ok(Self(table)),
            Ok(None) => Err(WordsError {
                reason: "no section .defmt".to_owned(),
            }),
            Err(error) => Err(WordsError {
                reason: error.to_string(),
            }),
        }
    }

    /// Reads one stream.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder {
            stream: self.0.new_stream_decoder(),
            recovers: self.0.encoding().can_recover(),
        }
    }

    /// Reads a whole stream at once.
    pub fn decode(&self, bytes: &[u8]) -> Vec<String> {
        self.decoder().lines(bytes)
    }
}

/// One stream of log.
pub struct Decoder<'w> {
    stream: Box<dyn StreamDecoder + Send + Sync + 'w>,
    recovers: bool,
}

impl Decoder<'_> {
    /// The lines that are complete with these next bytes.
    pub fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        self.stream.received(bytes);
        let mut lines = Vec::new();
        loop {
            match self.stream.decode() {
                Ok(frame) => lines.push(line(&frame)),
                Err(DecodeError::UnexpectedEof) => return lines,
                Err(DecodeError::Malformed) => {
                    lines.push("(a part of the log was lost)".to_owned());
                    if !self.recovers {
                        return lines;
                    }
                }
            }
        }
    }
}

/// `TIME LEVEL message`, the time only if the firmware has a clock for its log.
fn line(frame: &Frame) -> String {
    let time = frame
        .display_timestamp()
        .map_or_else(String::new, |time| format!("{time} "));
    let level = frame
        .level()
        .map_or_else(String::new, |level| format!("{} ", level.as_str()));
    format!("{time}{level}{}", frame.display_message())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Words;

    #[test]
    fn bytes_that_are_no_elf_are_refused() {
        let message = Words::from_elf(b"not an ELF").err().unwrap().to_string();
        assert!(message.contains("build it again"), "{message}");
    }
}
