//! Writes the standard initramfs: `ostler-guest-image --root UNPACKED --output FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Makes the initramfs of the demonstration guest from unpacked Debian packages.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Where linux-image and busybox-static are unpacked.
    #[arg(long)]
    root: PathBuf,
    /// The initramfs to write.
    #[arg(long)]
    output: PathBuf,
    /// A further kernel module to load, with what it depends on.
    #[arg(long = "module")]
    modules: Vec<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let modules: Vec<&str> = options.modules.iter().map(String::as_str).collect();
    let written = ostler_guest_image::standard(&options.root, &modules)
        .map_err(|error| error.to_string())
        .and_then(|image| std::fs::write(&options.output, image).map_err(|error| error.to_string()));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ostler-guest-image: {message}");
            ExitCode::FAILURE
        }
    }
}
