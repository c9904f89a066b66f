//! `virsh console`, and a guest's shell behind it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::setup::{Host, LIMIT, wait_until};

/// `virsh console` at a terminal of its own.
pub struct Console {
    virsh: Child,
    terminal: fs::File,
    output: mpsc::Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// The guest's shell was seen.
    ready: bool,
}

impl Console {
    pub fn open(host: &Host, arguments: &str) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let end = fs::File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let virsh = host
            .command(&format!("console {arguments}"))
            .stdin(Stdio::from(OwnedFd::from(end.try_clone().unwrap())))
            .stdout(Stdio::from(OwnedFd::from(end.try_clone().unwrap())))
            .stderr(Stdio::from(OwnedFd::from(end)))
            .spawn()
            .unwrap();
        let terminal = fs::File::from(terminal);
        let mut reader = terminal.try_clone().unwrap();
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            virsh,
            terminal,
            output,
            seen: Vec::new(),
            ready: false,
        }
    }

    pub fn expect(&mut self, text: &str) {
        while !self.text().contains(text) {
            match self.output.recv_timeout(LIMIT) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(why) => panic!(
                    "waiting for {text:?}: {why}; the console showed:\n{}",
                    self.text()
                ),
            }
        }
    }

    /// Takes in what was shown meanwhile.
    pub fn catch_up(&mut self) {
        while let Ok(bytes) = self.output.try_recv() {
            self.seen.extend(bytes);
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).replace('\r', "")
    }

    /// Executes a command in the guest's shell, and returns what it prints.
    pub fn shell(&mut self, command: &str) -> String {
        // A number of its own: a console shows the answers of commands before it was opened, too.
        static LAST: AtomicU32 = AtomicU32::new(0);
        // virsh forgets what was typed before it passes on what the guest says.
        if !self.ready {
            self.expect("# ");
            self.ready = true;
        }
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let (begin, end) = (format!("BEGIN{number}\n"), format!("\nEND{number}\n"));
        self.seen.clear();
        self.type_in(&format!(
            "echo BE''GIN{number}; {command}; echo; echo E''ND{number}\n"
        ));
        self.expect(&end);
        let text = self.text();
        let (_, after) = text.split_once(&begin).unwrap_or_else(|| panic!("{text}"));
        after.split_once(&end).unwrap().0.trim_end().to_owned()
    }

    /// Executes a command in the guest's shell until it prints `wanted`.
    pub fn shell_until(&mut self, command: &str, wanted: &str) {
        wait_until(&format!("{command} prints {wanted}"), || {
            self.shell(command) == wanted
        });
    }

    pub fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// The key that leaves virsh's console.
    pub fn leave(mut self) {
        self.type_in("\x1d");
        self.wait();
    }

    pub fn wait(&mut self) {
        let mut status = None;
        wait_until("virsh console ends", || {
            status = self.virsh.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{}", self.text());
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.virsh.kill();
        let _ = self.virsh.wait();
    }
}
