//! `ostler manual`: man pages and the completions of shells, from the same definitions that the command line is read by. The package
//! is made with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;

/// Options of the hidden subcommand.
#[derive(Args)]
pub struct ManualArgs {
    /// The folder in which a tree such as that below /usr/share is made.
    folder: PathBuf,
}

/// Where each shell looks below /usr/share.
const COMPLETIONS: &[(Shell, &str, &str)] = &[
    (Shell::Bash, "bash-completion/completions", "ostler"),
    (Shell::Zsh, "zsh/vendor-completions", "_ostler"),
    (Shell::Fish, "fish/vendor_completions.d", "ostler.fish"),
];

/// Writes everything.
pub fn run(args: ManualArgs) -> Result<ExitCode, Failure> {
    write(&args.folder)
        .map_err(|e| Failure::failed(format!("cannot write to \"{}\": {e}", args.folder.display())))?;
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path) -> io::Result<()> {
    let pages = folder.join("man/man1");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(crate::Cli::command(), &pages)?;
    for (shell, place, name) in COMPLETIONS {
        let place = folder.join(place);
        fs::create_dir_all(&place)?;
        let mut text = Vec::new();
        clap_complete::generate(*shell, &mut crate::Cli::command(), "ostler", &mut text);
        fs::write(place.join(name), text)?;
    }
    Ok(())
}
