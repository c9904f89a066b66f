//! External data representation, RFC 4506: big-endian words of four bytes, everything padded to them.
//!
//! Decoding is bounded by the input: nothing is allocated that the bytes at hand could not fill, and every list and
//! string has the limit that the protocol gives it.

mod basic;
mod list;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use list::{Chars, List, Opaque};

/// Longest string, in bytes.
pub const MAX_STRING: usize = 4 << 20;

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum XdrError {
    /// the data ends in the middle of a value
    #[error("the data ends in the middle of a value")]
    Short,
    /// more data than the type has
    #[error("{0} bytes follow the last value")]
    Trailing(usize),
    /// too many elements or bytes
    #[error("{length} elements where at most {limit} may be")]
    TooLong {
        /// How many there are.
        length: usize,
        /// How many there may be.
        limit: usize,
    },
    /// a string is not UTF-8, or has a NUL
    #[error("a string that is no text")]
    Text,
    /// a word is none of the values that its type has
    #[error("{value} is no {what}")]
    Value {
        /// The type.
        what: &'static str,
        /// The word.
        value: u32,
    },
}

/// Bytes that are still to be decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    fn take(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(XdrError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `count` bytes, and the padding after them.
    fn take_padded(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let taken = self.take(count)?;
        self.take(padding(count))?;
        Ok(taken)
    }

    /// A length of at most `limit`.
    fn length(&mut self, limit: usize) -> Result<usize, XdrError> {
        let length = u32::decode(self)? as usize;
        if length > limit {
            return Err(XdrError::TooLong { length, limit });
        }
        Ok(length)
    }
}

/// Bytes that bring `count` to a whole word.
fn padding(count: usize) -> usize {
    count.wrapping_neg() % 4
}

/// Adds bytes and their padding.
fn put_padded(bytes: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(bytes);
    output.resize(output.len() + padding(bytes.len()), 0);
}

/// Adds a length that may be at most `limit`.
fn put_length(length: usize, limit: usize, output: &mut Vec<u8>) -> Result<(), XdrError> {
    if length > limit {
        return Err(XdrError::TooLong { length, limit });
    }
    (length as u32).encode(output)
}

/// A type that can be read.
pub trait Decode: Sized {
    /// Takes a value off the front of `input`.
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError>;
}

/// A type that can be written.
pub trait Encode {
    /// Appends the value to `output`. Fails only if the value is longer than its type may be.
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError>;
}

/// Decodes a value that is all of `bytes`.
pub fn from_bytes<T: Decode>(bytes: &[u8]) -> Result<T, XdrError> {
    let mut reader = Reader::new(bytes);
    let value = T::decode(&mut reader)?;
    match reader.left() {
        0 => Ok(value),
        left => Err(XdrError::Trailing(left)),
    }
}

/// Encodes one value.
pub fn to_bytes<T: Encode>(value: &T) -> Result<Vec<u8>, XdrError> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes)?;
    Ok(bytes)
}

/// A structure, its fields in the order of the wire.
macro_rules! xdr_struct {
    ($(#[$doc:meta])* $name:ident $(<const $max:ident: usize>)? { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name $(<const $max: usize>)? {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl $(<const $max: usize>)? $crate::xdr::Decode for $name $(<$max>)? {
            fn decode(input: &mut $crate::xdr::Reader<'_>) -> Result<Self, $crate::xdr::XdrError> {
                Ok(Self { $($field: <$kind as $crate::xdr::Decode>::decode(input)?,)* })
            }
        }

        impl $(<const $max: usize>)? $crate::xdr::Encode for $name $(<$max>)? {
            fn encode(&self, output: &mut Vec<u8>) -> Result<(), $crate::xdr::XdrError> {
                $($crate::xdr::Encode::encode(&self.$field, output)?;)*
                Ok(())
            }
        }
    };
}
pub(crate) use xdr_struct;
