//! Arguments and results of the calls about storage pools and volumes.

use super::Uuid;
use crate::xdr::{List, xdr_struct};

/// Most pools in one list.
pub const MAX_POOLS: usize = 16384;
/// Most volumes in one list.
pub const MAX_VOLUMES: usize = 16384;

xdr_struct! {
    /// A pool.
    StoragePool {
        /// What it is called.
        name: String,
        /// What identifies it.
        uuid: Uuid,
    }
}

xdr_struct! {
    /// A volume.
    StorageVolume {
        /// The name of its pool.
        pool: String,
        /// What it is called there.
        name: String,
        /// What tells it from all others; its path.
        key: String,
    }
}

xdr_struct! {
    /// A pool and flags.
    PoolFlagsArgs {
        /// The pool.
        pool: StoragePool,
        /// By the call.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_FIND_STORAGE_POOL_SOURCES.
    FindSourcesArgs {
        /// The type of pool.
        kind: String,
        /// Where to look: `<source>`.
        source: Option<String>,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_POOL_GET_INFO.
    PoolInfo {
        /// 0 does not run, 2 runs.
        state: u32,
        /// Bytes of its file system.
        capacity: u64,
        /// What is used of them.
        allocation: u64,
        /// What is free.
        available: u64,
    }
}

xdr_struct! {
    /// Of STORAGE_POOL_SET_AUTOSTART.
    PoolAutostartArgs {
        /// The pool.
        pool: StoragePool,
        /// Whether it starts with the host.
        autostart: i32,
    }
}

xdr_struct! {
    /// Of STORAGE_POOL_LIST_VOLUMES.
    ListVolumesArgs {
        /// The pool.
        pool: StoragePool,
        /// How many names at most.
        max: i32,
    }
}

xdr_struct! {
    /// Of CONNECT_LIST_ALL_STORAGE_POOLS.
    ListAllPoolsRet {
        /// The pools.
        pools: List<StoragePool, MAX_POOLS>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_POOL_LIST_ALL_VOLUMES.
    ListAllVolumesArgs {
        /// The pool.
        pool: StoragePool,
        /// Whether the list is wanted, or only its length.
        need_results: i32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_POOL_LIST_ALL_VOLUMES.
    ListAllVolumesRet {
        /// The volumes.
        volumes: List<StorageVolume, MAX_VOLUMES>,
        /// How many.
        count: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_VOL_CREATE_XML.
    VolumeCreateArgs {
        /// Where.
        pool: StoragePool,
        /// What.
        xml: String,
        /// 1: metadata of the format ahead; 2: only as a copy that shares blocks; 4: compare with the schema.
        flags: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_VOL_CREATE_XML_FROM.
    VolumeCreateFromArgs {
        /// Where.
        pool: StoragePool,
        /// What.
        xml: String,
        /// What it begins with.
        source: StorageVolume,
        /// As of STORAGE_VOL_CREATE_XML.
        flags: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_VOL_LOOKUP_BY_NAME.
    VolumeByNameArgs {
        /// The pool.
        pool: StoragePool,
        /// The name.
        name: String,
    }
}

xdr_struct! {
    /// A volume and flags.
    VolumeFlagsArgs {
        /// The volume.
        volume: StorageVolume,
        /// By the call.
        flags: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_VOL_GET_INFO.
    VolumeInfo {
        /// 0: a file.
        kind: i32,
        /// Bytes that a guest sees.
        capacity: u64,
        /// Bytes that it takes, or the file's length if that was asked for.
        allocation: u64,
    }
}

xdr_struct! {
    /// Of STORAGE_VOL_WIPE_PATTERN.
    VolumeWipeArgs {
        /// The volume.
        volume: StorageVolume,
        /// 0: zeroes.
        algorithm: u32,
        /// None.
        flags: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_VOL_RESIZE.
    VolumeResizeArgs {
        /// The volume.
        volume: StorageVolume,
        /// Bytes.
        capacity: u64,
        /// 1: allocate what is added; 2: the size is a difference; 4: it may become smaller.
        flags: u32,
    }
}

xdr_struct! {
    /// Of STORAGE_VOL_UPLOAD and STORAGE_VOL_DOWNLOAD.
    VolumeStreamArgs {
        /// The volume.
        volume: StorageVolume,
        /// Where it begins.
        offset: u64,
        /// How many bytes; 0 for all that there are.
        length: u64,
        /// 1: with holes.
        flags: u32,
    }
}

xdr_struct! {
    /// Of CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY.
    PoolEventRegisterArgs {
        /// The kind of event.
        event: i32,
        /// Of which pool; of all if it is missing.
        pool: Option<StoragePool>,
    }
}

xdr_struct! {
    /// A pool's life cycle went on.
    PoolLifecycleMessage {
        /// The subscription.
        callback: i32,
        /// The pool.
        pool: StoragePool,
        /// What happened.
        event: i32,
        /// None.
        detail: i32,
    }
}

xdr_struct! {
    /// A pool's volumes were looked at anew.
    PoolRefreshMessage {
        /// The subscription.
        callback: i32,
        /// The pool.
        pool: StoragePool,
    }
}

xdr_struct! {
    /// A piece of a stream in which there is nothing but zeroes.
    StreamHole {
        /// Bytes.
        length: i64,
        /// None.
        flags: u32,
    }
}
