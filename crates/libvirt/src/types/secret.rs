//! Arguments and results of the calls about secrets.

use super::Uuid;
use crate::xdr::{List, Opaque, xdr_struct};

/// Most secrets in one list.
pub const MAX_SECRETS: usize = 16384;
/// Longest value in bytes.
pub const MAX_SECRET_VALUE: usize = 65536;

xdr_struct! {
    /// A secret.
    Secret {
        /// What identifies it.
        uuid: Uuid,
        /// What it is for: 0 nothing, 1 volume, 2 ceph, 3 iscsi, 4 tls, 5 vtpm.
        usage: i32,
        /// What of that kind.
        usage_id: String,
    }
}

xdr_struct! {
    /// A secret and flags.
    SecretFlagsArgs {
        /// The secret.
        secret: Secret,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of SECRET_SET_VALUE.
    SecretSetValueArgs {
        /// The secret.
        secret: Secret,
        /// Its value.
        value: Opaque<MAX_SECRET_VALUE>,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of SECRET_LOOKUP_BY_USAGE.
    SecretByUsageArgs {
        /// What it is for.
        usage: i32,
        /// What of that kind.
        usage_id: String,
    }
}

xdr_struct! {
    /// Of CONNECT_LIST_ALL_SECRETS.
    ListAllSecretsRet {
        /// The secrets.
        secrets: List<Secret, MAX_SECRETS>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_SECRET_EVENT_REGISTER_ANY.
    SecretEventRegisterArgs {
        /// The kind of event.
        event: i32,
        /// Of which secret; of all if it is missing.
        secret: Option<Secret>,
    }
}

xdr_struct! {
    /// A secret was defined or undefined.
    SecretLifecycleMessage {
        /// The subscription.
        callback: i32,
        /// The secret.
        secret: Secret,
        /// What happened.
        event: i32,
        /// None.
        detail: i32,
    }
}

xdr_struct! {
    /// A secret has another value.
    SecretValueMessage {
        /// The subscription.
        callback: i32,
        /// The secret.
        secret: Secret,
    }
}
