//! Of limits, security, threads and errors of guests.

use super::{Domain, List, Opaque, TypedParameter};
use crate::xdr::{Decode, Encode, Reader, XdrError, xdr_struct};

xdr_struct! {
    /// A guest, and room for parameters.
    GetParametersArgs {
        /// The guest.
        domain: Domain,
        /// Room; 0 asks how many there are.
        count: i32,
        /// 1: while it runs, 2: in the definition, 4: texts are understood.
        flags: u32,
    }
}

xdr_struct! {
    /// A guest and parameters.
    SetParametersArgs {
        /// The guest.
        domain: Domain,
        /// The parameters.
        params: List<TypedParameter, 32>,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_SCHEDULER_PARAMETERS.
    OldSchedulerParametersArgs {
        /// The guest.
        domain: Domain,
        /// Room.
        count: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_SCHEDULER_PARAMETERS.
    OldSetSchedulerParametersArgs {
        /// The guest.
        domain: Domain,
        /// The parameters.
        params: List<TypedParameter, 16>,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_INTERFACE_PARAMETERS.
    InterfaceParametersArgs {
        /// The guest.
        domain: Domain,
        /// The card: its MAC address, its alias, or the host's interface.
        device: String,
        /// Room; 0 asks how many there are.
        count: i32,
        /// 1: while it runs, 2: in the definition, 4: texts are understood.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_BLOCK_IO_TUNE.
    BlockTuneArgs {
        /// The guest.
        domain: Domain,
        /// The disk: its target or its path; missing where only the number of limits is asked for.
        disk: Option<String>,
        /// Room; 0 asks how many there are.
        count: i32,
        /// 1: while it runs, 2: in the definition, 4: texts are understood.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_PERF_EVENTS.
    PerfEvents {
        /// Each event, and whether it is counted.
        params: List<TypedParameter, 64>,
    }
}

xdr_struct! {
    /// Of NODE_GET_MEMORY_PARAMETERS.
    NodeParametersArgs {
        /// Room; 0 asks how many there are.
        count: i32,
        /// 4: texts are understood.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_DISK_ERRORS.
    DiskErrorsArgs {
        /// The guest.
        domain: Domain,
        /// Room; 0 asks how many disks there are.
        max: u32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// A disk that failed.
    DiskError {
        /// Its target.
        disk: String,
        /// 1: no reason is known, 2: the host had no space left.
        error: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_DISK_ERRORS.
    DiskErrors {
        /// The disks that failed.
        errors: List<DiskError, 256>,
        /// How many; of all disks, to a caller without room.
        count: i32,
    }
}

xdr_struct! {
    /// A thread for disks.
    IoThread {
        /// Its number.
        id: u32,
        /// The host's CPUs that it may run on, a bit each.
        map: Opaque<2048>,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_IOTHREAD_INFO.
    IoThreads {
        /// The threads.
        threads: List<IoThread, 16384>,
        /// How many.
        count: u32,
    }
}

/// Text of which each character is a word, with a zero at its end; at most `MAX` words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WideText<const MAX: usize>(pub String);

impl<const MAX: usize> Encode for WideText<MAX> {
    fn encode(&self, output: &mut Vec<u8>) -> Result<(), XdrError> {
        let words = self.0.bytes().chain([0]).map(i32::from);
        List::<i32, MAX>(words.collect()).encode(output)
    }
}

impl<const MAX: usize> Decode for WideText<MAX> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let words = List::<i32, MAX>::decode(input)?.0;
        let bytes = words.into_iter().take_while(|word| *word != 0).map(u8::try_from);
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().map_err(|_| XdrError::Text)?;
        String::from_utf8(bytes).map(Self).map_err(|_| XdrError::Text)
    }
}

xdr_struct! {
    /// How the host keeps guests apart.
    SecurityModel {
        /// Its name.
        model: WideText<257>,
        /// Its domain of interpretation.
        domain: WideText<257>,
    }
}

xdr_struct! {
    /// A guest's label.
    SecurityLabel {
        /// The label; empty if it has none.
        label: WideText<4097>,
        /// Whether it is enforced.
        enforcing: i32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_LIFECYCLE_ACTION.
    LifecycleActionArgs {
        /// The guest.
        domain: Domain,
        /// 0: it powers off, 1: it resets, 2: it crashes.
        kind: u32,
        /// What follows (`virDomainLifecycleAction`).
        action: u32,
        /// 1: while it runs, 2: in the definition.
        flags: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::{from_bytes, to_bytes};

    #[test]
    fn a_character_is_a_word_and_a_zero_ends_the_text() {
        let text = WideText::<257>("no".into());
        let bytes = to_bytes(&text).unwrap();
        assert_eq!(bytes, [0, 0, 0, 3, 0, 0, 0, b'n', 0, 0, 0, b'o', 0, 0, 0, 0]);
        assert_eq!(from_bytes::<WideText<257>>(&bytes).unwrap(), text);
        assert!(from_bytes::<WideText<2>>(&bytes).is_err(), "too long");
        assert!(from_bytes::<WideText<257>>(&[0, 0, 0, 1, 1, 0, 0, 0]).is_err());
    }
}
