//! The commands: a file a subject, and the table of all.

mod balloon;
mod block;
mod device;
mod display;
mod human;
mod machine;
mod media;
mod net;
mod pci;
mod qom;
mod state;

use serde_json::{Value, json};

use super::arguments::Arguments;
use super::failure::Failure;
use crate::driver::Request;
use crate::manager::{ClientFds, Manager};

pub(super) use qom::RTC;
pub(super) use state::{RUN_STATES, version};

/// What a command works on.
pub(crate) struct Context<'a> {
    pub manager: &'a mut Manager,
    /// The client's own descriptors.
    pub fds: &'a mut ClientFds,
}

/// What comes of a command that is followed.
#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    /// Answer this.
    Value(Value),
    /// Answer this once the driver has followed the request.
    Ask(Request, Value),
}

impl Reply {
    /// The answer of commands that have nothing to tell.
    fn nothing() -> Self {
        Self::Value(json!({}))
    }
}

type Answer = Result<Reply, Failure>;

/// How a command is executed.
#[derive(Clone, Copy)]
enum Run {
    /// It takes no arguments and only looks.
    Look(fn(&Manager) -> Value),
    /// It takes no arguments, and the driver does it.
    Ask(Request),
    /// Anything else.
    With(fn(&mut Context, Arguments) -> Answer),
}

/// A command.
pub(crate) struct Command {
    pub name: &'static str,
    run: Run,
}

impl Command {
    pub fn run(&self, context: &mut Context, arguments: Arguments) -> Answer {
        match self.run {
            Run::Look(look) => {
                arguments.finish()?;
                Ok(Reply::Value(look(context.manager)))
            }
            Run::Ask(request) => {
                arguments.finish()?;
                Ok(Reply::Ask(request, json!({})))
            }
            Run::With(run) => run(context, arguments),
        }
    }
}

const fn look(name: &'static str, look: fn(&Manager) -> Value) -> Command {
    let run = Run::Look(look);
    Command { name, run }
}

const fn ask(name: &'static str, request: Request) -> Command {
    let run = Run::Ask(request);
    Command { name, run }
}

const fn with(name: &'static str, run: fn(&mut Context, Arguments) -> Answer) -> Command {
    let run = Run::With(run);
    Command { name, run }
}

/// Every command, in alphabetical order.
pub(super) const COMMANDS: &[Command] = &[
    with("add-fd", device::add_fd),
    with("announce-self", net::announce),
    with("balloon", balloon::inflate),
    with("block_resize", block::resize),
    with("blockdev-add", block::add),
    with("blockdev-change-medium", media::change),
    with("blockdev-close-tray", media::close),
    with("blockdev-del", block::remove),
    with("blockdev-insert-medium", media::insert),
    with("blockdev-open-tray", media::open),
    with("blockdev-remove-medium", media::remove),
    with("closefd", device::close_fd),
    ask("cont", Request::Resume),
    with("device_add", device::add),
    with("device_del", device::remove),
    with("eject", media::eject),
    with("getfd", device::get_fd),
    with("human-monitor-command", human::run),
    with("inject-nmi", machine::inject_nmi),
    with("netdev_add", net::add),
    with("netdev_del", net::remove),
    with("qmp_capabilities", state::negotiated_before),
    with("qom-get", qom::get),
    with("qom-list", qom::list),
    with("qom-set", qom::set),
    with("query-balloon", balloon::query),
    look("query-block", block::query),
    with("query-blockstats", block::statistics),
    look("query-chardev", machine::chardevs),
    look("query-commands", state::commands),
    look("query-cpus-fast", machine::cpus),
    look("query-current-machine", machine::current),
    look("query-fdsets", |manager| manager.fdsets.describe()),
    look("query-hotpluggable-cpus", machine::cpu_places),
    look("query-iothreads", |_| json!([])),
    look("query-kvm", state::kvm),
    look("query-machines", machine::types),
    look("query-memory-devices", machine::memory_devices),
    look("query-memory-size-summary", machine::memory),
    look("query-name", |manager| json!({ "name": manager.spec.name })),
    with("query-named-block-nodes", block::nodes),
    look("query-pci", pci::query),
    look("query-qmp-schema", |_| super::schema::schema()),
    with("query-rx-filter", net::filters),
    look("query-status", state::status),
    look("query-uuid", |_| json!({ "UUID": state::UUID })),
    look("query-version", |_| version()),
    with("query-vm-generation-id", machine::generation_id),
    ask("quit", Request::Quit),
    with("remove-fd", device::remove_fd),
    with("screendump", display::screendump),
    with("send-key", display::send_key),
    with("set-action", machine::set_action),
    with("set_link", net::set_link),
    ask("stop", Request::Pause),
    ask("system_powerdown", Request::PowerButton),
    ask("system_reset", Request::Reset),
    with("system_wakeup", machine::wake_up),
    with("watchdog-set-action", machine::set_watchdog_action),
    with("x-ostler-hot", state::hot),
    with("x-ostler-plug", net::plug),
    with("x-ostler-registers", state::registers),
    with("x-ostler-screen", display::show),
    with("x-ostler-set-vm-generation-id", machine::set_generation_id),
    look("x-ostler-stats", crate::stats::stats),
];

/// The command with this name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}
