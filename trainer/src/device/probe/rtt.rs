//! RTT over anything that reads and writes memory: rings of bytes in the target's RAM, and a control block that says
//! where they are (SEGGER, <https://wiki.segger.com/RTT>).
//!
//! probe-rs has this too, but only for its own cores. Here the same code hears a board, an emulated board and the target
//! of a test.

use super::link::{Link, LinkError};

/// What the control block starts with, once it can be used.
const ID: [u8; 16] = *b"SEGGER RTT\0\0\0\0\0\0";
/// The identifier and the numbers of channels up and down.
const HEADER: u64 = 24;
/// Name, buffer, its size, offsets of the writer and of the reader, flags: a word each.
const CHANNEL: u64 = 24;
/// More channels are no control block, but chance.
const MOST: u32 = 16;
/// Longest buffer that is believed, in bytes.
const LONGEST: u32 = 1 << 20;

/// What a writer does whose channel is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Drops what it has to say.
    Skip = 0,
    /// Waits.
    Wait = 2,
}

/// The channels of a target.
#[derive(Debug)]
pub(super) struct Rtt {
    up: Vec<Ring>,
    down: Vec<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// Its description.
    at: u64,
    buffer: u64,
    size: u32,
    /// The offset that this side keeps, and nobody else may change.
    own: u32,
}

/// Why a channel does not go on.
#[derive(Debug)]
pub(super) enum RttError {
    /// The target.
    Link(LinkError),
    /// Somebody else changed it: the target has started again, or another program reads it.
    Changed,
}

impl From<LinkError> for RttError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl Rtt {
    /// Makes sure that a control block from before is not taken for a new one.
    pub fn clear(link: &mut dyn Link, block: u64) -> Result<(), LinkError> {
        link.write(block, &[0; ID.len()])
    }

    /// The channels, or nothing as long as the target has not made them.
    pub fn open(link: &mut dyn Link, block: u64) -> Result<Option<Self>, LinkError> {
        if link.read_vec(block, ID.len())? != ID {
            return Ok(None);
        }
        let up = link.read_u32(block + 16)?;
        let down = link.read_u32(block + 20)?;
        if up > MOST || down > MOST {
            return Ok(None);
        }
        let first_down = block + HEADER + u64::from(up) * CHANNEL;
        let up = rings(link, block + HEADER, up, 4)?;
        let down = rings(link, first_down, down, 3)?;
        Ok(up.zip(down).map(|(up, down)| Self { up, down }))
    }

    /// Says what the target does when this channel up is full.
    pub fn when_full(
        &self,
        link: &mut dyn Link,
        channel: usize,
        full: Full,
    ) -> Result<(), LinkError> {
        let Some(ring) = self.up.get(channel) else {
            return Ok(());
        };
        let flags = link.read_u32(ring.at + 20)?;
        link.write_u32(ring.at + 20, flags & !3 | full as u32)
    }

    /// All that waits in a channel up; nothing where there is no such channel.
    pub fn read(&mut self, link: &mut dyn Link, channel: usize) -> Result<Vec<u8>, RttError> {
        let mut bytes = Vec::new();
        let Some(ring) = self.up.get_mut(channel) else {
            return Ok(bytes);
        };
        let [write, read] = ring.offsets(link)?;
        if read != ring.own {
            return Err(RttError::Changed);
        }
        if write < read {
            bytes = link.read_vec(ring.buffer + u64::from(read), (ring.size - read) as usize)?;
        }
        let from = if write < read { 0 } else { read };
        bytes.extend(link.read_vec(ring.buffer + u64::from(from), (write - from) as usize)?);
        if write != read {
            link.write_u32(ring.at + 16, write)?;
            ring.own = write;
        }
        Ok(bytes)
    }

    /// Writes what fits into a channel down, and says how much that was.
    pub fn write(
        &mut self,
        link: &mut dyn Link,
        channel: usize,
        bytes: &[u8],
    ) -> Result<usize, RttError> {
        let Some(ring) = self.down.get_mut(channel) else {
            return Ok(0);
        };
        let [write, read] = ring.offsets(link)?;
        if write != ring.own {
            return Err(RttError::Changed);
        }
        // One byte stays free, so that a full ring is not taken for an empty one.
        let room = (ring.size + read - write - 1) % ring.size;
        let count = bytes.len().min(room as usize);
        let bytes = bytes.get(..count).unwrap_or_default();
        let (first, second) = bytes.split_at(count.min((ring.size - write) as usize));
        for (address, bytes) in [
            (ring.buffer + u64::from(write), first),
            (ring.buffer, second),
        ] {
            if !bytes.is_empty() {
                link.write(address, bytes)?;
            }
        }
        if count > 0 {
            ring.own = (write + count as u32) % ring.size;
            link.write_u32(ring.at + 12, ring.own)?;
        }
        Ok(count)
    }
}

impl Ring {
    /// Of the writer and of the reader.
    fn offsets(&self, link: &mut dyn Link) -> Result<[u32; 2], RttError> {
        let offsets = [link.read_u32(self.at + 12)?, link.read_u32(self.at + 16)?];
        match offsets.iter().all(|&offset| offset < self.size) {
            true => Ok(offsets),
            false => Err(RttError::Changed),
        }
    }
}

/// Some channels; `own` is the word of the offset that is ours. Nothing where one makes no sense yet.
fn rings(
    link: &mut dyn Link,
    at: u64,
    count: u32,
    own: u64,
) -> Result<Option<Vec<Ring>>, LinkError> {
    let mut rings = Vec::new();
    for index in 0..u64::from(count) {
        let at = at + index * CHANNEL;
        let ring = Ring {
            at,
            buffer: link.read_u32(at + 4)?.into(),
            size: link.read_u32(at + 8)?,
            own: link.read_u32(at + 4 * own)?,
        };
        if ring.size == 0 || ring.size > LONGEST || ring.own >= ring.size {
            return Ok(None);
        }
        rings.push(ring);
    }
    Ok(Some(rings))
}
