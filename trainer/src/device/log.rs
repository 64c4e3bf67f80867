//! Decodes the firmware's defmt log.

use defmt_decoder::{DecodeError, Frame, Locations, StreamDecoder, Table};

/// The words for what the firmware sends, which only its ELF has.
pub struct Words {
    table: Table,
    /// Where in the source each message is.
    lines: Locations,
}

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
            Ok(Some(table)) => Ok(Self {
                table,
                lines: Locations::new(),
            }),
            Ok(None) => Err(WordsError {
                reason: "no section .defmt".to_owned(),
            }),
            Err(error) => Err(WordsError {
                reason: error.to_string(),
            }),
        }
    }

    /// As [`Words::from_elf`]; every message is then followed by its line of source, as far as the ELF has those.
    pub fn with_lines(elf: &[u8]) -> Result<Self, WordsError> {
        let words = Self::from_elf(elf)?;
        let lines = words.table.get_locations(elf).unwrap_or_default();
        Ok(Self { lines, ..words })
    }

    /// Reads one stream.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder {
            stream: self.table.new_stream_decoder(),
            recovers: self.table.encoding().can_recover(),
            lines: &self.lines,
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
    lines: &'w Locations,
}

impl Decoder<'_> {
    /// The lines that are complete with these next bytes.
    pub fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        self.stream.received(bytes);
        let mut lines = Vec::new();
        loop {
            match self.stream.decode() {
                Ok(frame) => lines.push(line(&frame, self.lines)),
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

/// `TIME LEVEL message (file:line)`, the time only if the firmware has a clock for its log.
fn line(frame: &Frame, lines: &Locations) -> String {
    let time = frame
        .display_timestamp()
        .map_or_else(String::new, |time| format!("{time} "));
    let level = frame
        .level()
        .map_or_else(String::new, |level| format!("{} ", level.as_str()));
    let place = lines.get(&frame.index()).map_or_else(String::new, |place| {
        let file = place.file.file_name().unwrap_or_default();
        format!(" ({}:{})", file.display(), place.line)
    });
    format!("{time}{level}{}{place}", frame.display_message())
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
