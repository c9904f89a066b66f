//! Calls about storage pools.

use std::sync::Arc;

use ostler_libvirt::error::Source;
use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{
    FindSourcesArgs, List, ListAllArgs, ListAllPoolsRet, ListAllVolumesArgs, ListAllVolumesRet, MAX_POOLS,
    PoolFlagsArgs, PoolInfo, StoragePool as WirePool, XmlFlagsArgs,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::storage::PoolType;

use super::{Context, Dispatcher, check_flags};
use crate::storage::Pool;

/// Which pools a list has: of each group at least one flag that holds (`virConnectListAllStoragePoolsFlags`).
mod flag {
    pub const INACTIVE: u32 = 1 << 0;
    pub const ACTIVE: u32 = 1 << 1;
    pub const PERSISTENT: u32 = 1 << 2;
    pub const TRANSIENT: u32 = 1 << 3;
    pub const AUTOSTART: u32 = 1 << 4;
    pub const NO_AUTOSTART: u32 = 1 << 5;
    pub const DIR: u32 = 1 << 6;
    pub const FS: u32 = 1 << 7;
    /// All types, of which most are never there.
    pub const TYPES: u32 = 0x3fff << 6;
    pub const ALL: u32 = (1 << 20) - 1;

    pub const GROUPS: [u32; 4] = [
        INACTIVE | ACTIVE,
        PERSISTENT | TRANSIENT,
        AUTOSTART | NO_AUTOSTART,
        TYPES,
    ];
}

/// Flag of definitions: compare with the schema.
const VALIDATE: u32 = 1;
/// Flags of starting: build it first, and what that may do to what is there.
const WITH_BUILD: u32 = 1;
const BUILD_OVERWRITE: u32 = 2;
const BUILD_NO_OVERWRITE: u32 = 4;
/// Flag of STORAGE_POOL_GET_XML_DESC: the definition that lasts.
const XML_INACTIVE: u32 = 1;
/// States of PoolInfo.
const STATE_INACTIVE: u32 = 0;
const STATE_RUNNING: u32 = 2;

pub(super) fn add(to: &mut Dispatcher) {
    add_lists(to);
    add_changes(to);
    to.on::<StoragePoolGetInfo>(|context, pool| info(context.pool(&pool)?.as_ref()));
    to.on::<StoragePoolGetXmlDesc>(|context, args| {
        check_flags(args.flags, XML_INACTIVE)?;
        context.pool(&args.pool)?.xml(args.flags & XML_INACTIVE != 0)
    });
    to.on::<StoragePoolGetAutostart>(|context, pool| Ok(context.pool(&pool)?.state().autostart.into()));
    to.on::<StoragePoolIsActive>(|context, pool| Ok(context.pool(&pool)?.state().active.is_some().into()));
    to.on::<StoragePoolIsPersistent>(|context, pool| {
        Ok(context.pool(&pool)?.state().persistent.is_some().into())
    });
    to.on::<StoragePoolEventRegister>(|context, args| {
        let pool = match &args.pool {
            Some(pool) => Some(context.pool(pool)?.uuid),
            None => None,
        };
        let subscriptions = context.shared.pools.subscriptions();
        subscriptions.subscribe(context.client, args.event, pool)
    });
    to.on::<StoragePoolEventDeregister>(|context, callback| {
        context
            .shared
            .pools
            .subscriptions()
            .unsubscribe(context.client, callback)
    });
    to.on::<ConnectFindStoragePoolSources>(|_, args| find_sources(&args));
    to.on::<ConnectGetStoragePoolCapabilities>(|_, flags| {
        check_flags(flags, 0)?;
        Ok(capabilities())
    });
}

fn add_lists(to: &mut Dispatcher) {
    to.on::<ConnectListAllStoragePools>(list_all);
    to.on::<ConnectNumOfStoragePools>(|context, ()| Ok(wanted(context, flag::ACTIVE).len() as i32));
    to.on::<ConnectListStoragePools>(|context, max| Ok(names(context, flag::ACTIVE, max)));
    to.on::<ConnectNumOfDefinedStoragePools>(|context, ()| Ok(wanted(context, flag::INACTIVE).len() as i32));
    to.on::<ConnectListDefinedStoragePools>(|context, max| Ok(names(context, flag::INACTIVE, max)));
    to.on::<StoragePoolLookupByName>(|context, name| Ok(context.shared.pools.by_name(&name)?.to_wire()));
    to.on::<StoragePoolLookupByUuid>(|context, uuid| Ok(context.shared.pools.by_uuid(&uuid)?.to_wire()));
    to.on::<StoragePoolLookupByVolume>(|context, volume| {
        Ok(context.shared.pools.pool_of(&volume)?.to_wire())
    });
    to.on::<StoragePoolLookupByTargetPath>(|context, path| {
        Ok(context.shared.pools.by_target(&path)?.to_wire())
    });
    to.on::<StoragePoolNumOfVolumes>(|context, pool| {
        let pools = &context.shared.pools;
        Ok(pools.volumes(context.pool(&pool)?.as_ref())?.len() as i32)
    });
    to.on::<StoragePoolListVolumes>(|context, args| {
        let volumes = context.shared.pools.volumes(context.pool(&args.pool)?.as_ref())?;
        let names = volumes.into_iter().map(|volume| volume.name);
        Ok(List(names.take(args.max.max(0) as usize).collect()))
    });
    to.on::<StoragePoolListAllVolumes>(list_volumes);
}

fn add_changes(to: &mut Dispatcher) {
    to.on::<StoragePoolDefineXml>(|context, args| {
        check_definition_flags(args.flags)?;
        context.shared.pools.define(&args.xml)
    });
    to.on::<StoragePoolCreateXml>(create);
    to.on::<StoragePoolCreate>(start);
    to.on::<StoragePoolBuild>(|context, args| {
        context
            .shared
            .pools
            .build(context.pool(&args.pool)?.as_ref(), args.flags)
    });
    to.on::<StoragePoolDestroy>(|context, pool| context.shared.pools.stop(context.pool(&pool)?.as_ref()));
    to.on::<StoragePoolDelete>(|context, args| {
        check_flags(args.flags, 0)?;
        context.shared.pools.delete(context.pool(&args.pool)?.as_ref())
    });
    to.on::<StoragePoolUndefine>(|context, pool| {
        context.shared.pools.undefine(context.pool(&pool)?.as_ref())
    });
    to.on::<StoragePoolRefresh>(|context, args| {
        check_flags(args.flags, 0)?;
        context.shared.pools.refresh(context.pool(&args.pool)?.as_ref())
    });
    to.on::<StoragePoolSetAutostart>(|context, args| {
        let pool = context.pool(&args.pool)?;
        context.shared.pools.set_autostart(&pool, args.autostart != 0)
    });
}

/// Refuses to compare a document with the schema.
pub(super) fn check_definition_flags(flags: u32) -> Result<(), RemoteError> {
    if flags & VALIDATE != 0 {
        let why = "definitions cannot be compared with the schema; leave --validate out";
        return Err(RemoteError::new(Code::OperationUnsupported, why));
    }
    check_flags(flags, 0)
}

/// Whether a pool is built before it starts, and the flags of that.
fn build_flags(flags: u32) -> Result<Option<u32>, RemoteError> {
    /// What STORAGE_POOL_BUILD calls the same.
    const NO_OVERWRITE: u32 = 4;
    const OVERWRITE: u32 = 8;
    check_flags(flags, WITH_BUILD | BUILD_OVERWRITE | BUILD_NO_OVERWRITE)?;
    let choose = |flag, value| if flags & flag != 0 { value } else { 0 };
    let how = choose(BUILD_OVERWRITE, OVERWRITE) | choose(BUILD_NO_OVERWRITE, NO_OVERWRITE);
    Ok((flags != 0).then_some(how))
}

fn create(context: &Context<'_>, args: XmlFlagsArgs) -> Result<WirePool, RemoteError> {
    let build = build_flags(args.flags)?;
    context.shared.pools.create(&args.xml, build)
}

fn start(context: &Context<'_>, args: PoolFlagsArgs) -> Result<(), RemoteError> {
    let pool = context.pool(&args.pool)?;
    match build_flags(args.flags)? {
        Some(how) => context.shared.pools.build_and_start(&pool, how),
        None => context.shared.pools.start(&pool),
    }
}

fn info(pool: &Pool) -> Result<PoolInfo, RemoteError> {
    let runs = pool.state().active.is_some();
    let measured = if runs { pool.measure()? } else { Default::default() };
    Ok(PoolInfo {
        state: if runs { STATE_RUNNING } else { STATE_INACTIVE },
        capacity: measured.capacity,
        allocation: measured.allocation,
        available: measured.available,
    })
}

/// What holds of a pool, as flags; none for one that is being made or taken away.
fn holds(pool: &Pool) -> Option<u32> {
    let state = pool.state();
    let choose = |is, yes, no| if is { yes } else { no };
    let kind = match state.current()?.kind {
        PoolType::Fs => flag::FS,
        PoolType::Dir | PoolType::Logical => flag::DIR,
    };
    Some(
        kind | choose(state.active.is_some(), flag::ACTIVE, flag::INACTIVE)
            | choose(state.persistent.is_some(), flag::PERSISTENT, flag::TRANSIENT)
            | choose(state.autostart, flag::AUTOSTART, flag::NO_AUTOSTART),
    )
}

/// The pools that flags ask for.
fn wanted(context: &Context<'_>, flags: u32) -> Vec<Arc<Pool>> {
    let mut all = context.shared.pools.all();
    all.retain(|pool| {
        holds(pool).is_some_and(|holds| {
            flag::GROUPS
                .iter()
                .all(|group| flags & group == 0 || holds & flags & group != 0)
        })
    });
    all.truncate(MAX_POOLS);
    all
}

fn names(context: &Context<'_>, flags: u32, max: i32) -> List<String, MAX_POOLS> {
    let pools = wanted(context, flags);
    let names = pools.iter().map(|pool| pool.name.clone());
    List(names.take(max.max(0) as usize).collect())
}

fn list_all(context: &Context<'_>, args: ListAllArgs) -> Result<ListAllPoolsRet, RemoteError> {
    check_flags(args.flags, flag::ALL)?;
    let pools = wanted(context, args.flags);
    let count = pools.len() as u32;
    let shown = pools.iter().filter(|_| args.need_results != 0);
    Ok(ListAllPoolsRet {
        pools: List(shown.map(|pool| pool.to_wire()).collect()),
        count,
    })
}

fn list_volumes(context: &Context<'_>, args: ListAllVolumesArgs) -> Result<ListAllVolumesRet, RemoteError> {
    check_flags(args.flags, 0)?;
    let mut volumes = context.shared.pools.volumes(context.pool(&args.pool)?.as_ref())?;
    let count = volumes.len() as u32;
    if args.need_results == 0 {
        volumes.clear();
    }
    Ok(ListAllVolumesRet {
        volumes: List(volumes),
        count,
    })
}

/// Nothing is looked for: which devices are for pools is the owner's to say.
fn find_sources(args: &FindSourcesArgs) -> Result<String, RemoteError> {
    check_flags(args.flags, 0)?;
    let why = format!("sources of pools of type '{}' are not looked for", args.kind);
    Err(RemoteError::new(Code::OperationUnsupported, why).of(Source::Storage))
}

/// Which types of pools and volumes there are.
fn capabilities() -> String {
    let values = |values: &[&str]| -> String {
        let value = |value: &&str| format!("        <value>{value}</value>\n");
        values.iter().map(value).collect()
    };
    let volumes = format!(
        "    <volOptions>
      <defaultFormat type='raw'/>
      <enum name='targetFormatType'>
{}      </enum>
    </volOptions>
",
        values(&["raw", "iso"])
    );
    let systems = format!(
        "    <poolOptions>
      <defaultFormat type='auto'/>
      <enum name='sourceFormatType'>
{}      </enum>
    </poolOptions>
",
        values(&["auto", "ext2", "ext3", "ext4", "iso9660", "udf", "vfat", "xfs"])
    );
    let others: String = [
        "netfs", "logical", "disk", "iscsi", "scsi", "mpath", "rbd", "sheepdog", "gluster", "zfs", "vstorage",
    ]
    .iter()
    .map(|kind| format!("  <pool type='{kind}' supported='no'>\n  </pool>\n"))
    .collect();
    format!(
        "<storagepoolCapabilities>
  <pool type='dir' supported='yes'>
{volumes}  </pool>
  <pool type='fs' supported='yes'>
{systems}{volumes}  </pool>
{others}</storagepoolCapabilities>
"
    )
}
