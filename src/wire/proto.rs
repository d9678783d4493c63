//! Reader of protobuf's wire format over a borrowed slice: just tags, varints, fixed and
//! length-delimited fields, with the offset of whatever is wrong.

use super::WireError;

/// A field's value as the wire format shows it, before its type is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: string, bytes, message or packed field.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// A cursor over one message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    buffer: &'a [u8],
    position: usize,
    /// Offset of `buffer` in the whole request, for error messages.
    base: usize,
}

impl<'a> Reader<'a> {
    /// Reads `buffer`, which starts `base` bytes into the request.
    pub fn new(buffer: &'a [u8], base: usize) -> Self {
        Reader { buffer, position: 0, base }
    }

    /// Offset in the request of the next byte to read.
    pub fn offset(&self) -> usize {
        self.base + self.position
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.position == self.buffer.len()
    }

    pub(super) fn error(&self, what: &'static str) -> WireError {
        WireError::Proto { offset: self.offset(), what }
    }

    /// Next field as (number, value), or `None` at the end of the message.
    #[inline]
    pub fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, WireError> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let Ok(key) = u32::try_from(key) else { return Err(self.error("field key out of range")) };
        let number = key >> 3;
        if number == 0 {
            return Err(self.error("field number 0"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let rest = self.buffer.len() - self.position;
                if length > rest as u64 {
                    return Err(self.error("length beyond the end of the message"));
                }
                Value::Bytes(self.take(length as usize))
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            3 | 4 => return Err(self.error("group fields are not part of the schema")),
            _ => return Err(self.error("unknown wire type")),
        };
        Ok(Some((number, value)))
    }

    /// The next field, if its key is the one byte `key`, its wire type "length-delimited" and its length short: a
    /// shortcut before [`Reader::field`], which judges everything else.
    #[inline]
    pub(super) fn short_message(&mut self, key: u8) -> Option<&'a [u8]> {
        let (length, behind) = match self.buffer.get(self.position..)? {
            [first, length @ ..0x80, behind @ ..] if *first == key => (usize::from(*length), behind),
            [first, low, high @ ..0x80, behind @ ..] if *first == key => {
                (usize::from(low & 0x7f) | usize::from(*high) << 7, behind)
            }
            _ => return None,
        };
        let message = behind.get(..length)?;
        self.position = self.buffer.len() - behind.len() + length;
        Some(message)
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        // Nearly every key and length fits one byte, and the length of a series two.
        match self.buffer.get(self.position..) {
            Some(&[byte, ..]) if byte < 0x80 => {
                self.position += 1;
                Ok(u64::from(byte))
            }
            Some(&[low, high, ..]) if high < 0x80 => {
                self.position += 2;
                Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in 0..10 {
            let Some(&byte) = self.buffer.get(self.position + shift) else {
                return Err(self.error("varint beyond the end of the message"));
            };
            if shift == 9 && byte > 1 {
                return Err(self.error("varint over 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte < 0x80 {
                self.position += shift + 1;
                return Ok(value);
            }
        }
        Err(self.error("varint over 10 bytes"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some(chunk) = self.buffer[self.position..].first_chunk::<N>() else {
            return Err(self.error("fixed-width field beyond the end of the message"));
        };
        self.position += N;
        Ok(*chunk)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let bytes = &self.buffer[self.position..self.position + length];
        self.position += length;
        bytes
    }
}

/// The length-delimited fields number `wanted` of one message, each with its offset in the request. Ends
/// at the first error.
pub fn messages<'a>(
    reader: Reader<'a>,
    wanted: u32,
) -> impl Iterator<Item = Result<(&'a [u8], usize), WireError>> + use<'a> {
    let mut reader = Some(reader);
    std::iter::from_fn(move || {
        loop {
            // A wanted number is below 16, so that its key is one byte.
            if let Some(message) = reader.as_mut()?.short_message((wanted << 3 | 2) as u8) {
                return Some(Ok((message, reader.as_ref()?.offset() - message.len())));
            }
            match reader.as_mut()?.field() {
                Ok(Some((number, Value::Bytes(message)))) if number == wanted => {
                    return Some(Ok((message, reader.as_ref()?.offset() - message.len())));
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    reader = None;
                    return Some(Err(error));
                }
            }
        }
    })
}
