//! `ostler net`: the virtual switches that run, and the host's own bridges.

mod capture;
mod host;
mod host_networks;
mod host_tables;
mod switches;
mod tables;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::failure::Failure;

/// Options of `ostler net`.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct NetArgs {
    /// The switch: its name, or the path of its control socket. [default: the only one that runs]
    #[arg(long, short, value_name = "NAME", global = true)]
    switch: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Subcommand)]
enum NetCommand {
    #[command(flatten)]
    Switch(switches::SwitchCommand),
    /// The host's own bridges: the kernel's and Open vSwitch's.
    Host(Box<host::HostArgs>),
}

/// Does what the user asks for.
pub fn run(args: NetArgs) -> Result<ExitCode, Failure> {
    match args.command {
        NetCommand::Switch(command) => switches::run(command, args.switch, args.json),
        NetCommand::Host(host) => host::run(*host, args.json),
    }
}
