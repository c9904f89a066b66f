//! What clients ask a daemon for.

use ostler_libvirt::RemoteError;

use super::random::Random;
use super::stores::Stores;
use crate::uuid;

/// How many calls there are in a script.
pub const CALLS: usize = 240;
/// The flag of a change of what lasts (`VIR_DOMAIN_AFFECT_CONFIG`).
const CONFIG: u32 = 2;

/// The call of this number.
pub fn call(stores: &Stores, random: &mut Random, number: usize) {
    let called = match random.below(5) {
        0 | 1 => guest(stores, random, number),
        2 => network(stores, random, number),
        3 => pool(stores, random, number),
        _ => secret(stores, random, number),
    };
    called.unwrap_or_else(|error| panic!("call {number}: {error}"));
}

fn new_uuid(random: &mut Random) -> String {
    let mut bytes = [0; 16];
    bytes.fill_with(|| random.below(256) as u8);
    uuid::format(&bytes)
}

/// One of what is there, if there is some of it; one more is to be made else, and now and then.
fn choose<T>(random: &mut Random, mut all: Vec<T>) -> Option<T> {
    let chosen = random.below(all.len() + 2);
    (chosen < all.len()).then(|| all.swap_remove(chosen))
}

/// In the same order in each run: what is there from the first start has a UUID that nobody knows before.
fn by_name<T>(mut all: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
    all.sort_by_key(name);
    all
}

fn guest(stores: &Stores, random: &mut Random, number: usize) -> Result<(), RemoteError> {
    let domains = &stores.domains;
    let xml = |name: &str, uuid: &str| {
        format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><description>{number}</description>\
             <memory unit='MiB'>16</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>"
        )
    };
    let Some(domain) = choose(random, domains.all()) else {
        return domains
            .define(&xml(&format!("g{number}"), &new_uuid(random)))
            .map(drop);
    };
    let (name, autostart) = {
        let state = domain.state();
        (state.name.clone(), state.autostart)
    };
    match random.below(6) {
        0 => domains.define(&xml(&name, &uuid::format(&domain.uuid))).map(drop),
        1 => domains.edit(
            &domain,
            CONFIG,
            |_| Ok(()),
            |root| root.child_or_new("title").set_text(format!("title {number}")),
        ),
        2 => domains.set_autostart(&domain, !autostart),
        3 | 4 => domains.rename(&domain, &format!("r{number}")),
        _ => domains.undefine(&domain, crate::domains::Variables::MustNotBe),
    }
}

fn network(stores: &Stores, random: &mut Random, number: usize) -> Result<(), RemoteError> {
    let networks = &stores.networks;
    let xml = |name: &str, uuid: &str| {
        format!(
            "<network><name>{name}</name><uuid>{uuid}</uuid><bridge name='br-{name}'/><mac address='52:54:00:00:00:01'/>\
             <mtu size='{}'/></network>",
            1000 + number
        )
    };
    let Some(network) = choose(random, by_name(networks.all(), |network| network.name.clone())) else {
        return networks
            .define(&xml(&format!("n{number}"), &new_uuid(random)))
            .map(drop);
    };
    match random.below(3) {
        0 => networks
            .define(&xml(&network.name, &uuid::format(&network.uuid)))
            .map(drop),
        1 => {
            let autostart = network.state().autostart;
            networks.set_autostart(&network, !autostart)
        }
        _ => networks.undefine(&network),
    }
}

fn pool(stores: &Stores, random: &mut Random, number: usize) -> Result<(), RemoteError> {
    let pools = &stores.pools;
    let xml = |name: &str, uuid: &str| {
        format!(
            "<pool type='dir'><name>{name}</name><uuid>{uuid}</uuid><target><path>/nowhere/{name}</path>\
             <permissions><mode>0{:o}</mode></permissions></target></pool>",
            number % 0o777
        )
    };
    let Some(pool) = choose(random, by_name(pools.all(), |pool| pool.name.clone())) else {
        return pools
            .define(&xml(&format!("p{number}"), &new_uuid(random)))
            .map(drop);
    };
    match random.below(3) {
        0 => pools
            .define(&xml(&pool.name, &uuid::format(&pool.uuid)))
            .map(drop),
        1 => {
            let autostart = pool.state().autostart;
            pools.set_autostart(&pool, !autostart)
        }
        _ => {
            if pool.active().is_ok() {
                pools.stop(&pool)?;
            }
            pools.undefine(&pool)
        }
    }
}

fn secret(stores: &Stores, random: &mut Random, number: usize) -> Result<(), RemoteError> {
    let secrets = &stores.secrets;
    let ephemeral = if random.below(4) == 0 { "yes" } else { "no" };
    let xml = |uuid: &str| {
        format!(
            "<secret ephemeral='{ephemeral}'><uuid>{uuid}</uuid><description>{number}</description></secret>"
        )
    };
    let Some(secret) = choose(random, secrets.all(|_| true)) else {
        return secrets.define(&xml(&new_uuid(random))).map(drop);
    };
    match random.below(4) {
        0 => secrets.define(&xml(&uuid::format(&secret.uuid))).map(drop),
        1 | 2 => secrets.set_value(&secret, format!("value {number}").into()),
        _ => secrets.undefine(&secret),
    }
}
