//! Frames of a segment file: written one by one, read up to the first that is not whole.

use crate::limits::RECORD_MAX_BYTES;
use crate::proto::recording::{Record, record::Event};
use prost::Message;
use std::io::{self, Read, Write};

/// First bytes of every segment; the last one is the version of the format.
pub const MAGIC: [u8; 8] = *b"INFREC\0\x01";
/// Bytes before each record.
const HEAD: usize = 8;

/// Appends one framed record to `buffer` and returns its size in bytes.
pub fn frame(event: Event, buffer: &mut Vec<u8>) -> usize {
    let record = Record { event: Some(event) };
    let start = buffer.len();
    buffer.resize(start + HEAD, 0);
    // A vector grows as needed, so there is always room.
    let _ = record.encode(buffer);
    let payload = &buffer[start + HEAD..];
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let checksum = crc32fast::hash(payload);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..start + HEAD].copy_from_slice(&checksum.to_le_bytes());
    buffer.len() - start
}

/// Why a segment could not be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is complete.
    Whole,
    /// Its last frame is cut off, as after a crash.
    CutOff,
    /// A frame does not match its checksum or is no record.
    Damaged,
    /// It is no segment of this format.
    Foreign,
}

/// Reads a segment record by record.
pub struct Reader<R> {
    from: R,
    end: Option<End>,
    buffer: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// A reader of the segment that `from` begins with.
    pub fn new(mut from: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        let read = read_up_to(&mut from, &mut magic)?;
        let end = match read {
            _ if magic == MAGIC => None,
            _ if MAGIC.starts_with(&magic[..read]) => Some(End::CutOff),
            _ => Some(End::Foreign),
        };
        Ok(Reader { from, end, buffer: Vec::new() })
    }

    /// The next event; `None` at the end, whatever ended it.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        if self.end.is_some() {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        match read_up_to(&mut self.from, &mut head)? {
            0 => return Ok(self.end_with(End::Whole)),
            HEAD => {}
            _ => return Ok(self.end_with(End::CutOff)),
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let length = word(0) as usize;
        if length > RECORD_MAX_BYTES {
            return Ok(self.end_with(End::Damaged));
        }
        self.buffer.resize(length, 0);
        if read_up_to(&mut self.from, &mut self.buffer)? < length {
            return Ok(self.end_with(End::CutOff));
        }
        if crc32fast::hash(&self.buffer) != word(4) {
            return Ok(self.end_with(End::Damaged));
        }
        match Record::decode(&*self.buffer) {
            Ok(Record { event: Some(event) }) => Ok(Some(event)),
            _ => Ok(self.end_with(End::Damaged)),
        }
    }

    /// What ended the segment; `None` before its end.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    fn end_with(&mut self, end: End) -> Option<Event> {
        self.end = Some(end);
        None
    }
}

/// Fills `buffer` as far as there is something to read.
fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Begins a segment.
pub fn begin(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::recording::Tick;

    fn ticks(count: i64) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for now_ms in 0..count {
            frame(Event::Tick(Tick { now_ms }), &mut bytes);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> (usize, End) {
        let mut reader = Reader::new(bytes).unwrap();
        let mut count = 0;
        while reader.next_event().unwrap().is_some() {
            count += 1;
        }
        (count, reader.end().unwrap())
    }

    #[test]
    fn whatever_is_cut_off_the_whole_records_before_it_are_read() {
        let whole = ticks(5);
        assert_eq!(read(&whole), (5, End::Whole));
        let boundaries: Vec<usize> = (0..=5).map(|count| ticks(count).len()).collect();
        for length in 0..whole.len() {
            let (count, end) = read(&whole[..length]);
            let expected =
                boundaries.iter().filter(|boundary| **boundary <= length).count().saturating_sub(1);
            assert_eq!(count, expected, "cut to {length}");
            assert_eq!(end == End::Whole, boundaries.contains(&length), "cut to {length}");
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_segment_before_its_record() {
        let whole = ticks(5);
        for at in ticks(3).len()..ticks(4).len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let (count, end) = read(&bytes);
            assert_eq!(count, 3, "byte {at}");
            assert_ne!(end, End::Whole);
        }
        assert_eq!(read(b"something else entirely"), (0, End::Foreign));
    }
}
