//! Ostler looks after the guests of a Linux host. This is its command line: one file a subcommand.

mod accelerator;
mod control_client;
mod daemon;
mod doctor;
mod failure;
mod guests;
mod manual;
mod net;
mod porter;
mod run;
mod ssh_helper;
mod switch;
mod top;
mod usernet;
mod vmm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::Failure;

/// Runs the guests of a Linux host, with or without virtualization hardware.
#[derive(Parser)]
#[command(
    name = "ostler",
    version,
    about,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a guest in the foreground, its console in this terminal.
    Run(Box<run::RunArgs>),
    /// Say what this host can do for guests, and what would mend what it cannot.
    Doctor(doctor::DoctorArgs),
    /// Watch a guest: where its CPUs spend their time, and why they leave guest mode.
    Top(top::TopArgs),
    /// Define a guest.
    Create(Box<guests::CreateArgs>),
    /// List the guests that run.
    Ps(guests::PsArgs),
    /// Start guests.
    Start(guests::StartArgs),
    /// Press the power button of guests, and wait until they are off.
    Stop(guests::StopArgs),
    /// Use a guest's console in this terminal.
    Console(guests::ConsoleArgs),
    /// Print what a guest's console has said.
    Logs(guests::LogsArgs),
    /// Show what a guest is, and how it is.
    Inspect(guests::InspectArgs),
    /// Forget guests.
    Rm(guests::RmArgs),
    /// Manage this host's guests for libvirt's clients, such as virsh.
    Daemon(daemon::DaemonArgs),
    /// The virtual switch: a process that moves frames between guests and the host.
    Switch(switch::SwitchArgs),
    /// See and change networks: the virtual switches that run, and the host's own bridges.
    Net(net::NetArgs),
    /// The process of one guest; `run` starts it, with the guest's specification on standard input.
    #[command(hide = true)]
    Vmm(vmm::VmmArgs),
    /// The process of one guest's user-mode network; `run` starts it.
    #[command(hide = true)]
    Usernet(usernet::UsernetArgs),
    /// The process that connects what one guest's process asks for; `run` starts it, with its errands on standard input.
    #[command(hide = true)]
    Porter,
    /// What libvirt's clients start over ssh; also by the name virt-ssh-helper.
    #[command(hide = true)]
    SshHelper(ssh_helper::SshHelperArgs),
    /// Write man pages and the completions of shells.
    #[command(hide = true)]
    Manual(manual::ManualArgs),
}

fn main() -> ExitCode {
    let result = if ssh_helper::is_meant() {
        ssh_helper::run_by_name()
    } else {
        run()
    };
    result.unwrap_or_else(|failure| {
        failure::say(format_args!("ostler: {}", failure.message));
        ExitCode::from(failure.status)
    })
}

fn run() -> Result<ExitCode, Failure> {
    match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(args) => run::run(*args),
            Command::Doctor(args) => doctor::run(args),
            Command::Top(args) => top::run(args),
            Command::Create(args) => guests::create(*args),
            Command::Ps(args) => guests::ps(args),
            Command::Start(args) => guests::start(args),
            Command::Stop(args) => guests::stop(args),
            Command::Console(args) => guests::console(args),
            Command::Logs(args) => guests::logs(args),
            Command::Inspect(args) => guests::inspect(args),
            Command::Rm(args) => guests::rm(args),
            Command::Daemon(args) => daemon::run(args),
            Command::Switch(args) => switch::run(args),
            Command::Net(args) => net::run(args),
            Command::Vmm(args) => vmm::run(args).map(|()| ExitCode::SUCCESS),
            Command::Usernet(args) => usernet::run(args).map(|()| ExitCode::SUCCESS),
            Command::Porter => porter::run().map(|()| ExitCode::SUCCESS),
            Command::SshHelper(args) => ssh_helper::run(args),
            Command::Manual(args) => manual::run(args),
        },
        Err(error) => failure::from_clap(&error),
    }
}
