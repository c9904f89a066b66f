//! Lists and opaque bytes, each with its limit.

use super::{Decode, Encode, Reader, XdrError, put_length, put_padded};

/// At most `MAX` values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<T: Decode, const MAX: usize> Decode for List<T, MAX> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let count = input.length(MAX)?;
        // Every value takes a word at least: a length that the input cannot hold reserves nothing.
        if count > input.left() / 4 {
            return Err(XdrError::Short);
        }
        (0..count)
            .map(|_| T::decode(input))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<T: Encode, const MAX: usize> Encode for List<T, MAX> {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        put_length(self.0.len(), MAX, output)?;
        self.0.iter().try_for_each(|value| value.encode(output))
    }
}

/// At most `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opaque<const MAX: usize>(pub Vec<u8>);

impl<const MAX: usize> Decode for Opaque<MAX> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let length = input.length(MAX)?;
        Ok(Self(input.take_padded(length)?.to_vec()))
    }
}

impl<const MAX: usize> Encode for Opaque<MAX> {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        put_length(self.0.len(), MAX, output)?;
        put_padded(&self.0, output);
        Ok(())
    }
}

/// Exactly `N` bytes, like a UUID.
impl<const N: usize> Decode for [u8; N] {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(input.take_padded(N)?);
        Ok(bytes)
    }
}

impl<const N: usize> Encode for [u8; N] {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        put_padded(self, output);
        Ok(())
    }
}

/// An array of `N` characters, a word each; what is shorter is filled with zeros, what is longer is cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chars<const N: usize>(pub String);

impl<const N: usize> Encode for Chars<N> {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        // The last one stays zero: the other end takes it for a string of C.
        let text = self.0.bytes().take(N - 1);
        text.chain(std::iter::repeat(0))
            .take(N)
            .try_for_each(|byte| u32::from(byte).encode(output))
    }
}

impl<const N: usize> Decode for Chars<N> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let mut bytes = Vec::new();
        for _ in 0..N {
            bytes.push(u32::decode(input)? as u8);
        }
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(N);
        bytes.truncate(end);
        String::from_utf8(bytes).map(Self).map_err(|_| XdrError::Text)
    }
}
