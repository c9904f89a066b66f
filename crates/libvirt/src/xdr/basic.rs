//! Numbers, strings, and values that may be missing.

use super::{Decode, Encode, MAX_STRING, Reader, XdrError, put_length, put_padded};

macro_rules! number {
    ($($kind:ty: $bytes:literal),*) => { $(
        impl Decode for $kind {
            fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
                let mut word = [0; $bytes];
                word.copy_from_slice(input.take($bytes)?);
                Ok(Self::from_be_bytes(word))
            }
        }

        impl Encode for $kind {
            fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
                output.extend(self.to_be_bytes());
                Ok(())
            }
        }
    )* };
}

number!(u32: 4, i32: 4, u64: 8, i64: 8, f64: 8);

impl Decode for () {
    fn decode(_: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(())
    }
}

impl Encode for () {
    fn encode(&self, _: &mut Vec<u8>) -> Result<(), XdrError> {
        Ok(())
    }
}

impl Decode for bool {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        match u32::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(XdrError::Value {
                what: "truth value",
                value,
            }),
        }
    }
}

impl Encode for bool {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        u32::from(*self).encode(output)
    }
}

/// Clients are C programs: a string with a NUL in it would be another string to them.
impl Decode for String {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let length = input.length(MAX_STRING)?;
        let text = std::str::from_utf8(input.take_padded(length)?).map_err(|_| XdrError::Text)?;
        if text.contains('\0') {
            return Err(XdrError::Text);
        }
        Ok(text.into())
    }
}

impl Encode for String {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        if self.contains('\0') {
            return Err(XdrError::Text);
        }
        put_length(self.len(), MAX_STRING, output)?;
        put_padded(self.as_bytes(), output);
        Ok(())
    }
}

/// A pointer: a word that tells whether the value follows.
impl<T: Decode> Decode for Option<T> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(match bool::decode(input)? {
            true => Some(T::decode(input)?),
            false => None,
        })
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        self.is_some().encode(output)?;
        match self {
            Some(value) => value.encode(output),
            None => Ok(()),
        }
    }
}
