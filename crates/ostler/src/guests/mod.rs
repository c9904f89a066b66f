//! The short commands for guests: `ostler create`, `ps`, `start`, `stop`, `console`, `logs`, `rm`, `inspect`. They ask `ostler daemon`, as
//! libvirt's clients do.

mod client;
mod console;
mod create;
mod place;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use ostler_libvirt::procedures::*;
use ostler_libvirt::types::{Domain, DomainFlagsArgs, ListAllArgs};
use serde_json::{Value, json};

use crate::failure::Failure;
use client::{Client, Error};
pub use create::{CreateArgs, create};
use place::Place;

/// Flags of CONNECT_LIST_ALL_DOMAINS: those that run, and those that do not.
const ACTIVE: u32 = 1;
const INACTIVE: u32 = 2;
/// Flag of DOMAIN_GET_XML_DESC: the definition that lasts.
const XML_INACTIVE: u32 = 2;
/// The state of a guest that is off.
const SHUT_OFF: i32 = 5;
/// The code of the error that there is no such guest.
const NO_DOMAIN: i32 = 42;
/// How long it takes until a guest is looked at again.
const PAUSE: Duration = Duration::from_millis(100);

/// Options of `ostler ps`.
#[derive(Args)]
pub struct PsArgs {
    #[command(flatten)]
    place: Place,
    /// List the guests that do not run, too.
    #[arg(short, long)]
    all: bool,
}

/// Options of `ostler start`.
#[derive(Args)]
pub struct StartArgs {
    #[command(flatten)]
    place: Place,
    /// The guests.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Options of `ostler stop`.
#[derive(Args)]
pub struct StopArgs {
    #[command(flatten)]
    place: Place,
    /// End them at once, instead of pressing the power button.
    #[arg(short, long)]
    force: bool,
    /// Seconds that a guest may take to power off.
    #[arg(long, value_name = "SECONDS", default_value = "60", conflicts_with = "force")]
    timeout: u32,
    /// The guests.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Options of `ostler rm`.
#[derive(Args)]
pub struct RmArgs {
    #[command(flatten)]
    place: Place,
    /// End those that run first.
    #[arg(short, long)]
    force: bool,
    /// The guests, whose definitions are forgotten; their disks stay.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Options of `ostler inspect`.
#[derive(Args)]
pub struct InspectArgs {
    #[command(flatten)]
    place: Place,
    /// The guest.
    name: String,
}

/// Options of `ostler console`.
#[derive(Args)]
pub struct ConsoleArgs {
    #[command(flatten)]
    place: Place,
    /// Take the console from whoever has it.
    #[arg(short, long)]
    force: bool,
    /// The guest.
    name: String,
}

/// Options of `ostler logs`.
#[derive(Args)]
pub struct LogsArgs {
    #[command(flatten)]
    place: Place,
    /// Go on with what the console says next, instead of ending once it says nothing for a second.
    #[arg(short, long)]
    follow: bool,
    /// The guest.
    name: String,
}

/// What is shown of a guest.
struct Shown {
    domain: Domain,
    state: &'static str,
    cpus: u32,
    /// KiB.
    memory: u64,
    /// ns.
    cpu_time: u64,
}

impl Shown {
    /// Asks for it; `None` if the guest is gone meanwhile.
    fn of(client: &mut Client, domain: Domain) -> Result<Option<Self>, Failure> {
        Ok(match client.try_call::<DomainGetInfo>(&domain)? {
            Err(error) if error.code == NO_DOMAIN => None,
            Err(error) => return Err(error.into()),
            Ok(info) => Some(Self {
                domain,
                state: state_name(info.state),
                cpus: info.vcpus,
                memory: info.memory,
                cpu_time: info.cpu_time,
            }),
        })
    }

    fn json(&self) -> Value {
        json!({
            "name": self.domain.name,
            "uuid": uuid_text(&self.domain.uuid),
            "id": id_of(&self.domain),
            "state": self.state,
            "cpus": self.cpus,
            "memory-kib": self.memory,
            "cpu-time-ns": self.cpu_time,
        })
    }
}

/// `ostler ps`.
pub fn ps(args: PsArgs) -> Result<ExitCode, Failure> {
    let mut client = Client::to_look(&args.place)?;
    let flags = if args.all { ACTIVE | INACTIVE } else { ACTIVE };
    let list = client.call::<ConnectListAllDomains>(&ListAllArgs {
        need_results: 1,
        flags,
    })?;
    let mut guests = Vec::new();
    for domain in list.domains.0 {
        guests.extend(Shown::of(&mut client, domain)?);
    }
    guests.sort_by(|a, b| a.domain.name.cmp(&b.domain.name));
    if args.place.json {
        print_json(&guests.iter().map(Shown::json).collect());
        return Ok(ExitCode::SUCCESS);
    }
    let width = guests
        .iter()
        .map(|guest| plain(&guest.domain.name).chars().count())
        .max();
    let width = width.unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$}  {:>5}  {:<9}  {:>4}  {:>10}\n",
        "NAME", "ID", "STATE", "CPUS", "MEMORY"
    );
    for guest in &guests {
        let id = id_of(&guest.domain).map_or("-".into(), |id| id.to_string());
        let (name, memory) = (plain(&guest.domain.name), format!("{} MiB", guest.memory >> 10));
        text += &format!(
            "{name:<width$}  {id:>5}  {:<9}  {:>4}  {memory:>10}\n",
            guest.state, guest.cpus
        );
    }
    print(&text);
    Ok(ExitCode::SUCCESS)
}

/// `ostler start`.
pub fn start(args: StartArgs) -> Result<ExitCode, Failure> {
    each(&args.place, &args.names, "started", |client, domain| {
        client.call::<DomainCreate>(domain).map(drop)
    })
}

/// `ostler stop`.
pub fn stop(args: StopArgs) -> Result<ExitCode, Failure> {
    let patience = Duration::from_secs(args.timeout.into());
    each(&args.place, &args.names, "stopped", |client, domain| {
        if args.force {
            return client.call::<DomainDestroy>(domain).map(drop);
        }
        client.call::<DomainShutdown>(domain)?;
        let end = Instant::now() + patience;
        while is_running(client, domain)? {
            if Instant::now() >= end {
                return Err(Failure::failed(format!(
                    "\"{}\" has not powered off within {} seconds; wait longer by --timeout, or end it by --force",
                    domain.name, args.timeout
                )));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    })
}

/// `ostler rm`.
pub fn rm(args: RmArgs) -> Result<ExitCode, Failure> {
    each(&args.place, &args.names, "removed", |client, domain| {
        if is_running(client, domain)? {
            if !args.force {
                let why = format!("\"{}\" runs; stop it first, or end it by --force", domain.name);
                return Err(Failure::failed(why));
            }
            client.call::<DomainDestroy>(domain)?;
        }
        match client.try_call::<DomainUndefine>(domain)? {
            // One that was not to last is gone with its end.
            Err(error) if error.code == NO_DOMAIN => Ok(()),
            done => Ok(done?),
        }
    })
}

/// `ostler inspect`.
pub fn inspect(args: InspectArgs) -> Result<ExitCode, Failure> {
    let mut client = Client::to_look(&args.place)?;
    let domain = client.call::<DomainLookupByName>(&args.name)?;
    let autostart = client.call::<DomainGetAutostart>(&domain)? != 0;
    let persistent = client.call::<DomainIsPersistent>(&domain)? != 0;
    let of_definition = DomainFlagsArgs {
        domain: domain.clone(),
        flags: XML_INACTIVE,
    };
    let xml = client.call::<DomainGetXmlDesc>(&of_definition)?;
    let gone = || Failure::failed(format!("\"{}\" is gone", args.name));
    let guest = Shown::of(&mut client, domain)?.ok_or_else(gone)?;
    let mut value = guest.json();
    value["autostart"] = autostart.into();
    value["persistent"] = persistent.into();
    if args.place.json {
        value["xml"] = xml.into();
        print_json(&value);
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), plain);
        text += &format!("{name:<12} {value}\n");
    }
    // The definition is many lines; they may be no more than lines.
    let lines: Vec<String> = xml.lines().map(plain).collect();
    print(&format!("{text}\n{}\n", lines.join("\n")));
    Ok(ExitCode::SUCCESS)
}

/// `ostler console`.
pub fn console(args: ConsoleArgs) -> Result<ExitCode, Failure> {
    if args.place.json {
        return Err(Failure::bad_input("a console is no JSON"));
    }
    let mut client = Client::to_change(&args.place)?;
    let domain = client.call::<DomainLookupByName>(&args.name)?;
    console::attend(client, domain, args.force)
}

/// `ostler logs`.
pub fn logs(args: LogsArgs) -> Result<ExitCode, Failure> {
    let mut client = Client::to_change(&args.place)?;
    let domain = client.call::<DomainLookupByName>(&args.name)?;
    if args.place.json && args.follow {
        return Err(Failure::bad_input(
            "what goes on is no JSON; leave --json or --follow out",
        ));
    }
    if !args.place.json {
        return console::show(client, domain, args.follow, &mut std::io::stdout());
    }
    let mut text = Vec::new();
    let status = console::show(client, domain, false, &mut text)?;
    print_json(&json!({ "name": args.name, "console": String::from_utf8_lossy(&text) }));
    Ok(status)
}

/// Does something with each guest, and says that it was done.
fn each(
    place: &Place,
    names: &[String],
    done: &str,
    act: impl Fn(&mut Client, &Domain) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let mut client = Client::to_change(place)?;
    let mut all = Vec::new();
    for name in names {
        let domain = client.call::<DomainLookupByName>(name)?;
        act(&mut client, &domain)?;
        match place.json {
            true => all.push(json!({ "name": name, "done": done })),
            false => print(&format!("{} {done}\n", plain(name))),
        }
    }
    if place.json {
        print_json(&all.into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the guest runs. One that was not to last is gone once it does not.
fn is_running(client: &mut Client, domain: &Domain) -> Result<bool, Failure> {
    let args = DomainFlagsArgs {
        domain: domain.clone(),
        flags: 0,
    };
    match client.try_call::<DomainGetState>(&args)? {
        Ok(state) => Ok(state.state != SHUT_OFF),
        Err(Error { code: NO_DOMAIN, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn state_name(state: u32) -> &'static str {
    const NAMES: [&str; 8] = [
        "unknown",
        "running",
        "blocked",
        "paused",
        "ending",
        "off",
        "crashed",
        "suspended",
    ];
    NAMES.get(state as usize).unwrap_or(&NAMES[0])
}

/// The number of its run.
fn id_of(domain: &Domain) -> Option<i32> {
    (domain.id >= 0).then_some(domain.id)
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Text of others without what could drive a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn print(text: &str) {
    // A reader that went away has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn print_json(value: &Value) {
    print(&format!("{value:#}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_drives_no_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a[2Jb");
        assert_eq!(uuid_text(&[0x1f; 16]), "1f1f1f1f-1f1f-1f1f-1f1f-1f1f1f1f1f1f");
        assert_eq!((state_name(5), state_name(99)), ("off", "unknown"));
    }
}
