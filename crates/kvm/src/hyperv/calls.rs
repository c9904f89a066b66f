//! The two hypercalls that use connections, HvPostMessage and HvSignalEvent, as values; their status (Hypervisor Top Level Functional
//! Specification 6.0b, chapters 4 and 11, and appendix B).

use super::pages::{Message, PAYLOAD};

/// What a hypercall answers.
pub type Status = u64;

pub const SUCCESS: Status = 0;
pub const INVALID_CALL: Status = 0x2;
const INVALID_INPUT: Status = 0x3;
const INVALID_ALIGNMENT: Status = 0x4;
const INVALID_PARAMETER: Status = 0x5;
pub const INVALID_PORT: Status = 0x11;
pub const INVALID_CONNECTION: Status = 0x12;
pub const INSUFFICIENT_BUFFERS: Status = 0x13;

const POST_MESSAGE: u64 = 0x5c;
const SIGNAL_EVENT: u64 = 0x5d;

/// Of the input value: the call's code; its parameter is in a register. The rest belongs to calls of other forms.
const CODE: u64 = 0xffff;
const FAST: u64 = 1 << 16;

/// Bits of a connection's number. What is above them is reserved.
pub const CONNECTION: u32 = 0x00ff_ffff;

/// Bytes of HvPostMessage's parameters: connection, reserved, type, bytes of the payload (each 32 bits), payload.
const POSTED: usize = 16 + PAYLOAD;

/// A page, which parameters may not leave.
const PAGE: u64 = 4096;

/// What a hypercall asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// HvPostMessage.
    Post { connection: u32, message: Message },
    /// HvSignalEvent; the flag counts from the connection's own.
    Signal { connection: u32, flag: u16 },
}

/// True if the input value is that of a call that names a connection.
pub fn names_connection(input: u64) -> bool {
    matches!(input & CODE, POST_MESSAGE | SIGNAL_EVENT)
}

/// Understands the call with this input value. `parameter` is what it works on, or where that is in memory, which `read` fills in as far as
/// there is memory.
pub fn parse(input: u64, parameter: u64, read: impl FnOnce(u64, &mut [u8]) -> bool) -> Result<Call, Status> {
    if input & !(CODE | FAST) != 0 {
        return Err(INVALID_INPUT);
    }
    let fast = input & FAST != 0;
    match input & CODE {
        POST_MESSAGE if fast => Err(INVALID_INPUT),
        POST_MESSAGE => {
            let mut bytes = [0; POSTED];
            fetch(parameter, &mut bytes, read)?;
            posted(&bytes)
        }
        SIGNAL_EVENT if fast => signalled(parameter),
        SIGNAL_EVENT => {
            let mut bytes = [0; 8];
            fetch(parameter, &mut bytes, read)?;
            signalled(u64::from_le_bytes(bytes))
        }
        _ => Err(INVALID_CALL),
    }
}

fn fetch(gpa: u64, bytes: &mut [u8], read: impl FnOnce(u64, &mut [u8]) -> bool) -> Result<(), Status> {
    let whole = gpa.is_multiple_of(8) && gpa % PAGE + bytes.len() as u64 <= PAGE;
    match whole && read(gpa, bytes) {
        true => Ok(()),
        false => Err(INVALID_ALIGNMENT),
    }
}

fn posted(bytes: &[u8; POSTED]) -> Result<Call, Status> {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (connection, kind, size) = (word(0), word(8), word(12) as usize);
    if connection & !CONNECTION != 0 {
        return Err(INVALID_CONNECTION);
    }
    // Zero is a free slot, and types with the highest bit are the hypervisor's own.
    if kind == 0 || kind >> 31 != 0 || size > PAYLOAD {
        return Err(INVALID_PARAMETER);
    }
    Ok(Call::Post {
        connection,
        message: Message {
            kind,
            payload: bytes[16..16 + size].to_vec(),
        },
    })
}

fn signalled(parameter: u64) -> Result<Call, Status> {
    let connection = parameter as u32;
    if parameter >> 48 != 0 || connection & !CONNECTION != 0 {
        return Err(INVALID_INPUT);
    }
    Ok(Call::Signal {
        connection,
        flag: (parameter >> 32) as u16,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nowhere(_: u64, _: &mut [u8]) -> bool {
        panic!("memory is not looked at")
    }

    fn parameters(connection: u32, kind: u32, size: u32) -> Vec<u8> {
        let words = [connection, 0, kind, size];
        let head = words.iter().flat_map(|word| word.to_le_bytes());
        head.chain((0..PAYLOAD).map(|at| at as u8)).collect()
    }

    fn post(parameters: &[u8]) -> Result<Call, Status> {
        parse(POST_MESSAGE, 0x7008, |gpa, bytes| {
            assert_eq!(gpa, 0x7008);
            bytes.copy_from_slice(parameters);
            true
        })
    }

    #[test]
    fn a_message_is_taken_from_memory() {
        for size in [0, 8, 240] {
            let expected = Call::Post {
                connection: 0x11,
                message: Message {
                    kind: 0x1234_5678,
                    payload: (0..size as u8).collect(),
                },
            };
            assert_eq!(post(&parameters(0x11, 0x1234_5678, size)), Ok(expected));
        }
    }

    #[test]
    fn a_message_that_cannot_be_is_refused() {
        assert_eq!(post(&parameters(1, 0, 8)), Err(INVALID_PARAMETER));
        assert_eq!(post(&parameters(1, 0x8000_0010, 8)), Err(INVALID_PARAMETER));
        for size in [241, 0x8000_0000, u32::MAX] {
            assert_eq!(post(&parameters(1, 1, size)), Err(INVALID_PARAMETER), "{size}");
        }
        assert_eq!(post(&parameters(0x0100_0001, 1, 8)), Err(INVALID_CONNECTION));
        assert_eq!(parse(POST_MESSAGE | FAST, 0, nowhere), Err(INVALID_INPUT));
    }

    #[test]
    fn parameters_are_aligned_and_in_one_page_that_is_there() {
        for gpa in [1, 0x7004, 0x7f08, 0xfff8, u64::MAX, u64::MAX - 7, u64::MAX - 254] {
            assert_eq!(
                parse(POST_MESSAGE, gpa, nowhere),
                Err(INVALID_ALIGNMENT),
                "{gpa:#x}"
            );
        }
        for gpa in [0x7f00, u64::MAX - 255] {
            assert_eq!(
                parse(POST_MESSAGE, gpa, |_, _| false),
                Err(INVALID_ALIGNMENT),
                "{gpa:#x}"
            );
        }
        assert_eq!(parse(SIGNAL_EVENT, 0x7ffc, nowhere), Err(INVALID_ALIGNMENT));
        assert_eq!(
            parse(SIGNAL_EVENT, u64::MAX - 7, |_, _| false),
            Err(INVALID_ALIGNMENT)
        );
    }

    #[test]
    fn an_event_is_in_the_register_or_in_memory() {
        let signal = Call::Signal {
            connection: 0x20_0021,
            flag: 3,
        };
        let value = 0x0003_0020_0021;
        assert_eq!(parse(SIGNAL_EVENT | FAST, value, nowhere), Ok(signal.clone()));
        let slow = parse(SIGNAL_EVENT, 0x7ff8, |gpa, bytes| {
            assert_eq!(gpa, 0x7ff8);
            bytes.copy_from_slice(&value.to_le_bytes());
            true
        });
        assert_eq!(slow, Ok(signal));
        for reserved in [1 << 24, 1 << 31, 1 << 48, u64::MAX] {
            assert_eq!(parse(SIGNAL_EVENT | FAST, reserved, nowhere), Err(INVALID_INPUT));
        }
    }

    #[test]
    fn calls_of_other_forms_are_none() {
        for further in [17, 26, 31, 32, 48, 63] {
            let input = SIGNAL_EVENT | FAST | 1 << further;
            assert_eq!(parse(input, 0x21, nowhere), Err(INVALID_INPUT), "{further}");
        }
        assert_eq!(parse(0x50, 0, nowhere), Err(INVALID_CALL));
        assert!(names_connection(0x1_005c) && names_connection(0x5d) && !names_connection(0x5e));
    }

    fn input() -> impl Strategy<Value = u64> {
        let call = prop_oneof![Just(POST_MESSAGE), Just(SIGNAL_EVENT), any::<u64>()];
        (call, any::<bool>()).prop_map(|(call, fast)| call | if fast { FAST } else { 0 })
    }

    fn word(likely: u32) -> impl Strategy<Value = u32> {
        prop_oneof![0..likely, any::<u32>()]
    }

    proptest! {
        #[test]
        fn what_a_guest_asks_for_is_within_bounds_or_refused(
            input in input(),
            parameter in prop_oneof![any::<u64>(), (0u64..1 << 50).prop_map(|page| page * 8)],
            connection in word(CONNECTION), kind in word(9), size in word(300),
        ) {
            let memory = parameters(connection, kind, size);
            let read = |gpa: u64, bytes: &mut [u8]| {
                assert_eq!((gpa % 8, gpa / PAGE), (0, (gpa + bytes.len() as u64 - 1) / PAGE));
                bytes.copy_from_slice(&memory[..bytes.len()]);
                true
            };
            match parse(input, parameter, read) {
                Ok(Call::Post { connection, message }) => {
                    prop_assert!(connection <= CONNECTION && message.payload.len() <= PAYLOAD);
                    prop_assert!(message.kind != 0 && message.kind >> 31 == 0);
                }
                Ok(Call::Signal { connection, .. }) => prop_assert!(connection <= CONNECTION),
                Err(status) => prop_assert!((INVALID_CALL..=INSUFFICIENT_BUFFERS).contains(&status)),
            }
        }
    }
}
