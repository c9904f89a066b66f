//! Ostler looks after the guests of a Linux host. This is its command line: one file a subcommand.

mod accelerator;
mod control_client;
mod doctor;
mod failure;
mod run;
mod top;
mod vmm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// The process of one guest; `run` starts it, with the guest's specification on standard input.
    #[command(hide = true)]
    Vmm(vmm::VmmArgs),
}

fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(args) => run::run(*args),
            Command::Doctor(args) => doctor::run(args),
            Command::Top(args) => top::run(args),
            Command::Vmm(args) => vmm::run(args).map(|()| ExitCode::SUCCESS),
        },
        Err(error) => failure::from_clap(&error),
    };
    result.unwrap_or_else(|failure| {
        failure::say(format_args!("ostler: {}", failure.message));
        ExitCode::from(failure.status)
    })
}
