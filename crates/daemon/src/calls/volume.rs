//! Calls about volumes.

use std::sync::Arc;

use ostler_libvirt::error::Source;
use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    StorageVolume, VolumeCreateArgs, VolumeCreateFromArgs, VolumeFlagsArgs, VolumeInfo, VolumeResizeArgs,
    VolumeStreamArgs,
};
use ostler_libvirt::{Code, RemoteError};

use super::{Context, Dispatcher, check_flags};
use crate::storage::{Download, Resize, Upload};
use crate::stream::Peer;

/// Flags of making a volume: metadata of its format ahead; sharing blocks with what it is a copy of; compare with the schema.
const PREALLOC_METADATA: u32 = 1;
const REFLINK: u32 = 2;
const VALIDATE: u32 = 4;
/// Flag of STORAGE_VOL_GET_INFO_FLAGS: the file's length, not what it takes.
const GET_PHYSICAL: u32 = 1;
/// Flags of STORAGE_VOL_RESIZE.
const ALLOCATE: u32 = 1;
const DELTA: u32 = 2;
const SHRINK: u32 = 4;
/// Flag of STORAGE_VOL_UPLOAD and STORAGE_VOL_DOWNLOAD: with holes.
const SPARSE: u32 = 1;
/// The type of a volume that is a file.
const FILE: i32 = 0;
/// The one way of wiping: zeroes.
const ZERO: u32 = 0;

pub(super) fn add(to: &mut Dispatcher) {
    add_looks(to);
    to.on::<StorageVolCreateXml>(create);
    to.on::<StorageVolCreateXmlFrom>(create_from);
    to.on::<StorageVolDelete>(|context, args| {
        check_flags(args.flags, 0)?;
        context.shared.pools.delete_volume(&args.volume)
    });
    to.on::<StorageVolResize>(resize);
    to.on::<StorageVolWipe>(|context, args| wipe(context, &args.volume, ZERO, args.flags));
    to.on::<StorageVolWipePattern>(|context, args| wipe(context, &args.volume, args.algorithm, args.flags));
    to.on::<StorageVolUpload>(upload);
    to.on::<StorageVolDownload>(download);
}

fn add_looks(to: &mut Dispatcher) {
    to.on::<StorageVolLookupByName>(|context, args| {
        let pool = context.pool(&args.pool)?;
        context.shared.pools.volume(&pool, &args.name)
    });
    to.on::<StorageVolLookupByKey>(|context, key| context.shared.pools.volume_at(&key, "key"));
    to.on::<StorageVolLookupByPath>(|context, path| context.shared.pools.volume_at(&path, "path"));
    to.on::<StorageVolGetInfo>(|context, volume| info(context, &volume, 0));
    to.on::<StorageVolGetInfoFlags>(|context, args| info(context, &args.volume, args.flags));
    to.on::<StorageVolGetXmlDesc>(|context, args: VolumeFlagsArgs| {
        check_flags(args.flags, 0)?;
        Ok(context.shared.pools.look(&args.volume)?.xml())
    });
    to.on::<StorageVolGetPath>(|context, volume| {
        let path = context.shared.pools.volume_path(&volume.pool, &volume.name)?;
        Ok(path.to_string_lossy().into_owned())
    });
}

fn info(context: &Context<'_>, volume: &StorageVolume, flags: u32) -> Result<VolumeInfo, RemoteError> {
    check_flags(flags, GET_PHYSICAL)?;
    let state = context.shared.pools.look(volume)?;
    Ok(VolumeInfo {
        kind: FILE,
        capacity: state.capacity,
        allocation: match flags & GET_PHYSICAL {
            0 => state.allocation,
            _ => state.physical,
        },
    })
}

/// Flags of making a volume; true if its blocks have to be shared.
fn create_flags(flags: u32) -> Result<bool, RemoteError> {
    let unsupported = |why: &str| Err(RemoteError::new(Code::OperationUnsupported, why).of(Source::Storage));
    check_flags(flags, PREALLOC_METADATA | REFLINK | VALIDATE)?;
    if flags & VALIDATE != 0 {
        return unsupported("definitions cannot be compared with the schema; leave --validate out");
    }
    if flags & PREALLOC_METADATA != 0 {
        return unsupported("a raw volume has no metadata that could be allocated ahead");
    }
    Ok(flags & REFLINK != 0)
}

fn create(context: &Context<'_>, args: VolumeCreateArgs) -> Result<StorageVolume, RemoteError> {
    // What shares its blocks with nothing has nothing to share.
    create_flags(args.flags)?;
    let pool = context.pool(&args.pool)?;
    context.shared.pools.create_volume(&pool, &args.xml)
}

fn create_from(context: &Context<'_>, args: VolumeCreateFromArgs) -> Result<StorageVolume, RemoteError> {
    let share_only = create_flags(args.flags)?;
    let pool = context.pool(&args.pool)?;
    context
        .shared
        .pools
        .copy_volume(&pool, &args.xml, &args.source, share_only)
}

fn resize(context: &Context<'_>, args: VolumeResizeArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, ALLOCATE | DELTA | SHRINK)?;
    let how = Resize {
        capacity: args.capacity,
        delta: args.flags & DELTA != 0,
        shrink: args.flags & SHRINK != 0,
        allocate: args.flags & ALLOCATE != 0,
    };
    context.shared.pools.resize_volume(&args.volume, how)
}

fn wipe(
    context: &Context<'_>,
    volume: &StorageVolume,
    algorithm: u32,
    flags: u32,
) -> Result<(), RemoteError> {
    check_flags(flags, 0)?;
    if algorithm != ZERO {
        let why = "volumes are wiped with zeroes only: --algorithm zero";
        return Err(RemoteError::new(Code::OperationUnsupported, why).of(Source::Storage));
    }
    context.shared.pools.wipe_volume(volume)
}

fn upload(context: &Context<'_>, args: VolumeStreamArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, SPARSE)?;
    let peer = Peer::new(context.client.outbox.clone(), context.header);
    let part = (args.offset, args.length);
    let sparse = args.flags & SPARSE != 0;
    let stream = Upload::start(&context.shared.pools, &args.volume, part, sparse, peer)?;
    context.client.add_stream(context.header.serial, stream)
}

fn download(context: &Context<'_>, args: VolumeStreamArgs) -> Result<(), RemoteError> {
    check_flags(args.flags, SPARSE)?;
    let peer = Peer::new(context.client.outbox.clone(), context.header);
    let part = (args.offset, args.length);
    let sparse = args.flags & SPARSE != 0;
    let stream = Download::open(&context.shared.pools, &args.volume, part, sparse, peer)?;
    context
        .client
        .add_stream(context.header.serial, Arc::clone(&stream) as _)?;
    context.after_reply(move || stream.run());
    Ok(())
}
