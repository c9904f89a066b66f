//! Debian's GDB, as a person uses it.

use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long GDB may take for a command; the guest may have to get somewhere first.
const LIMIT: Duration = Duration::from_secs(240);

/// A GDB that takes commands.
pub struct Gdb {
    child: Child,
    input: ChildStdin,
    output: mpsc::Receiver<Vec<u8>>,
    said: Vec<u8>,
    commands: u32,
}

impl Gdb {
    /// Starts it; `None`, with the reason said, where there is none.
    pub fn start(test: &str) -> Option<Self> {
        if let Err(error) = Command::new("gdb").arg("--version").output() {
            eprintln!("SKIPPED {test}: gdb cannot be started ({error}); install the package gdb");
            return None;
        }
        // What a target says comes on standard error, which has to come in order.
        let started = Command::new("sh")
            .args(["-c", "exec gdb -nx -q 2>&1"])
            .env_remove("DEBUGINFOD_URLS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = started.unwrap();
        let input = child.stdin.take().unwrap();
        let output = read_all(child.stdout.take().unwrap());
        let mut gdb = Self {
            child,
            input,
            output,
            said: Vec::new(),
            commands: 0,
        };
        for setting in ["pagination off", "confirm off", "width 0", "style enabled off"] {
            gdb.run(&format!("set {setting}"));
        }
        Some(gdb)
    }

    /// Types a command without waiting for its end, and returns how that will be known.
    fn type_in(&mut self, command: &str) -> String {
        self.commands += 1;
        // Typed with a gap, so that it is known from its echo in an error message.
        let end = format!("@@{}@@", self.commands);
        writeln!(self.input, "{command}\necho @@{}@@\\n", self.commands).unwrap();
        end
    }

    /// Runs a command to its end, and returns what GDB said.
    pub fn run(&mut self, command: &str) -> String {
        let end = self.type_in(command);
        self.until(&end, command)
    }

    /// Lets the guest run, and interrupts it after `while_it_runs`.
    pub fn run_and_interrupt(&mut self, while_it_runs: impl FnOnce()) -> String {
        let end = self.type_in("continue");
        let before = self.until("Continuing.\n", "continue");
        while_it_runs();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        before + &self.until(&end, "continue")
    }

    fn until(&mut self, end: &str, command: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = String::from_utf8_lossy(&self.said).into_owned();
            if let Some(at) = text.find(end) {
                self.said = text.as_bytes()[at + end.len()..].to_vec();
                return text[..at].replace("(gdb) ", "");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.said.extend(bytes),
                Err(error) => panic!("gdb at {command:?}: {error}; it said:\n{text}"),
            }
        }
    }

    /// The value of an expression that is a number.
    pub fn value(&mut self, expression: &str) -> u64 {
        let said = self.run(&format!("print/x {expression}"));
        let number = said.rsplit("= 0x").next().unwrap().trim();
        u64::from_str_radix(number, 16).unwrap_or_else(|_| panic!("{expression}: {said}"))
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(stdout: ChildStdout) -> mpsc::Receiver<Vec<u8>> {
    let (sender, output) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    output
}

/// An ELF file for GDB that has nothing but symbols: name and address of each, all in one section without contents.
pub fn symbol_file(symbols: &[(&str, u64)]) -> Vec<u8> {
    const SECTIONS: u64 = 64;
    const HEADER: u64 = 64;
    let first = symbols.iter().map(|symbol| symbol.1).min().unwrap_or(0);
    let last = symbols.iter().map(|symbol| symbol.1).max().unwrap_or(0);
    let mut names = b"\0.text\0.symtab\0.strtab\0".to_vec();
    let mut table = vec![0; 24];
    for (name, address) in symbols {
        table.extend((names.len() as u32).to_le_bytes());
        // Global function, default visibility, section 1.
        table.extend([0x12, 0, 1, 0]);
        table.extend(address.to_le_bytes());
        table.extend(1u64.to_le_bytes());
        names.extend(name.as_bytes());
        names.push(0);
    }
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [0, 0, SECTIONS] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 0, 64, 4, 3] {
        file.extend(half.to_le_bytes());
    }
    let at = HEADER + 4 * 64;
    let mut section = |name: u32, kind: u32, rest: [u64; 4], link: u32, info: u32, entry: u64| {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for word in rest {
            file.extend(word.to_le_bytes());
        }
        file.extend(link.to_le_bytes());
        file.extend(info.to_le_bytes());
        file.extend(1u64.to_le_bytes());
        file.extend(entry.to_le_bytes());
    };
    section(0, 0, [0; 4], 0, 0, 0);
    // NOBITS, allocated and executable.
    section(1, 8, [6, first, at, last - first + 16], 0, 0, 0);
    section(7, 2, [0, 0, at, table.len() as u64], 3, 1, 24);
    section(
        15,
        3,
        [0, 0, at + table.len() as u64, names.len() as u64],
        0,
        0,
        0,
    );
    file.extend(table);
    file.extend(names);
    file
}
