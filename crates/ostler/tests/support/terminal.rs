//! A guest whose console is in a person's terminal.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{Guest, Running};

/// The person's end of the terminal.
pub struct Screen(File);

impl Screen {
    /// Makes the terminal this large; the kernel tells the program in it by SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.0, size).unwrap();
    }
}

impl Guest {
    /// Starts it in a terminal of its own, `columns` wide and `rows` high, which is its controlling terminal.
    pub fn spawn_in_terminal(mut self, columns: u16, rows: u16) -> (Running, Screen) {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
        let device: OwnedFd = File::options().read(true).write(true).open(name).unwrap().into();
        let screen = Screen(File::from(controller));
        screen.resize(columns, rows);
        self.complete_command();
        let Self {
            mut command, folder, ..
        } = self;
        command
            .stdin(Stdio::from(device.try_clone().unwrap()))
            .stdout(Stdio::from(device))
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only two system calls are made, on the child's own standard input.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().expect("ostler starts");
        // Nothing here may keep the device open: its closing is the end of the output.
        drop(command);
        let input = screen.0.try_clone().unwrap();
        let output = screen.0.try_clone().unwrap();
        (Running::new(child, input, output, folder), screen)
    }
}
