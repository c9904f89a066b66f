//! Of what is asked of a guest from inside: its agent, and the control socket of its process.

use super::{Domain, List};
use crate::xdr::xdr_struct;

/// Most file systems of a guest.
const MAX_FILE_SYSTEMS: usize = 256;

xdr_struct! {
    /// Of QEMU_DOMAIN_MONITOR_COMMAND.
    MonitorCommandArgs {
        /// The guest.
        domain: Domain,
        /// The command: a JSON object, or a line for people.
        command: String,
        /// 1: a line for people.
        flags: u32,
    }
}

xdr_struct! {
    /// Of QEMU_DOMAIN_AGENT_COMMAND.
    AgentCommandArgs {
        /// The guest.
        domain: Domain,
        /// The command, a JSON object.
        command: String,
        /// Seconds to wait, or one of three other ways.
        timeout: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_FSTRIM.
    FsTrimArgs {
        /// The guest.
        domain: Domain,
        /// Where the file system is mounted; all if it is missing.
        mount_point: Option<String>,
        /// Shortest range, in bytes.
        minimum: u64,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_FSFREEZE and DOMAIN_FSTHAW.
    FsFreezeArgs {
        /// The guest.
        domain: Domain,
        /// Where the file systems are mounted; all if there are none.
        mount_points: List<String, MAX_FILE_SYSTEMS>,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// A guest's clock.
    GuestTime {
        /// Seconds since 1970.
        seconds: i64,
        /// ns.
        nanoseconds: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_TIME.
    SetTimeArgs {
        /// The guest.
        domain: Domain,
        /// Seconds since 1970.
        seconds: i64,
        /// ns.
        nanoseconds: u32,
        /// 1: by the real-time clock.
        flags: u32,
    }
}

xdr_struct! {
    /// A file system of a guest.
    FsInfo {
        /// Where it is mounted.
        mount_point: String,
        /// What the guest calls it.
        name: String,
        /// Its type.
        kind: String,
        /// The disks that it is on, by their targets.
        disks: List<String, 256>,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_FSINFO.
    FsInfos {
        /// The file systems.
        info: List<FsInfo, MAX_FILE_SYSTEMS>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_SET_USER_PASSWORD.
    SetUserPasswordArgs {
        /// The guest.
        domain: Domain,
        /// Whose.
        user: Option<String>,
        /// The password.
        password: Option<String>,
        /// 1: it is encrypted.
        flags: u32,
    }
}

xdr_struct! {
    /// Of DOMAIN_GET_GUEST_INFO.
    GuestInfoArgs {
        /// The guest.
        domain: Domain,
        /// Which kinds; 0 for all.
        kinds: u32,
        /// None.
        flags: u32,
    }
}
