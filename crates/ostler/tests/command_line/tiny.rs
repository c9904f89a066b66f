//! Tiny Multiboot kernels, put together byte by byte, and the binary that runs them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");
/// How long anything may take; generous, because the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where the kernel is loaded.
const BASE: u32 = 0x10_0000;

/// 32-bit code that grows instruction by instruction.
#[derive(Default)]
pub struct Kernel(Vec<u8>);

impl Kernel {
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes `text` to the serial port.
    pub fn print(mut self, text: &str) -> Self {
        for byte in text.bytes() {
            // mov dx, 0x3f8; mov al, byte; out dx, al
            self.0.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]);
        }
        self
    }

    /// Writes a byte to a port.
    pub fn out(mut self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.0.extend([0x66, 0xba, low, high, 0xb0, value, 0xee]);
        self
    }

    /// Prints "register" if `port` reads as the 1 that was written to it, and "no register" if not.
    pub fn read_back(mut self, port: u16) -> Self {
        let no = Self::new().print("no ").0;
        let [low, high] = port.to_le_bytes();
        // mov dx, port; in al, dx; cmp al, 1; je past the "no "
        self.0
            .extend([0x66, 0xba, low, high, 0xec, 0x3c, 1, 0x74, no.len() as u8]);
        self.0.extend(no);
        self.print("register\n")
    }

    /// Switches the power off through PM1 control.
    pub fn power_off(mut self) -> Self {
        // mov dx, 0x604; mov ax, 0x2000; out dx, ax; hang: hlt; jmp hang
        self.0
            .extend([0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef]);
        self.halt()
    }

    /// Waits for the power button.
    pub fn wait_for_button(mut self) -> Self {
        // mov dx, 0x600; again: in ax, dx; test ah, 1; jz again
        self.0
            .extend([0x66, 0xba, 0x00, 0x06, 0x66, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf9]);
        self
    }

    /// Sends everything that comes in at the serial port back, up to a `q`.
    pub fn echo(mut self) -> Self {
        // again: mov dx, 0x3fd; in al, dx; test al, 1; jz again; mov dx, 0x3f8; in al, dx; out dx, al;
        // cmp al, 'q'; jne again
        self.0
            .extend([0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7]);
        self.0
            .extend([0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c, b'q', 0x75, 0xed]);
        self
    }

    /// An undefined instruction with no interrupt table: a triple fault.
    pub fn triple_fault(mut self) -> Self {
        // push 0; push 0; lidt [esp]; ud2
        self.0
            .extend([0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b]);
        self
    }

    /// Sleeps for ever.
    pub fn halt(mut self) -> Self {
        self.0.extend([0xfa, 0xf4, 0xeb, 0xfc]);
        self
    }

    /// The kernel's file.
    pub fn write(&self, folder: &Path) -> PathBuf {
        const MAGIC: u32 = 0x1bad_b002;
        const FLAGS: u32 = 1 << 16;
        // A stack for the few that need one: mov esp, BASE.
        let mut code = vec![0xbc];
        code.extend(BASE.to_le_bytes());
        code.extend(&self.0);
        let words = [
            MAGIC,
            FLAGS,
            0u32.wrapping_sub(MAGIC + FLAGS),
            BASE,
            BASE,
            0,
            0,
            BASE + 32,
        ];
        let mut file: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        file.extend(code);
        let path = folder.join("kernel");
        std::fs::write(&path, file).unwrap();
        path
    }
}

/// `ostler run` of a tiny kernel on the software CPU, with pipes.
pub struct Tiny {
    pub folder: Arc<tempfile::TempDir>,
    pub command: Command,
}

impl Tiny {
    pub fn new(kernel: Kernel) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut command = Command::new(OSTLER);
        command.args(["run", "--memory", "16M", "--accel", "soft", "--kernel"]);
        command.arg(kernel.write(folder.path()));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self { folder, command }
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Adds `option=PATH` (or `option PATH` where it ends without `=`) and returns the path.
    pub fn path_option(&mut self, option: &str, prefix: &str, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        self.command
            .arg(option)
            .arg(format!("{prefix}{}", path.display()));
        path
    }

    pub fn spawn(mut self) -> Running {
        let child = self.command.spawn().unwrap();
        Running {
            child,
            folder: self.folder,
        }
    }

    pub fn run(self) -> Ended {
        self.spawn().wait()
    }
}

pub struct Running {
    pub child: Child,
    pub folder: Arc<tempfile::TempDir>,
}

pub struct Ended {
    /// Kept for whoever looks into its files.
    _folder: Arc<tempfile::TempDir>,
    pub status: ExitStatus,
    pub output: String,
    pub errors: String,
}

impl Running {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the console has shown `text`.
    pub fn expect(&mut self, text: &str) {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(text.as_bytes()) {
            let got = self.child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(
                got,
                1,
                "the console ended with {:?}",
                String::from_utf8_lossy(&seen)
            );
            seen.push(byte[0]);
        }
    }

    /// Waits for the end; what the console showed since the last look comes along.
    pub fn wait(mut self) -> Ended {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "ostler did not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let read = |stream: Option<&mut dyn Read>| {
            let mut text = Vec::new();
            if let Some(stream) = stream {
                stream.read_to_end(&mut text).unwrap();
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        let output = read(self.child.stdout.as_mut().map(|s| s as &mut dyn Read));
        let errors = read(self.child.stderr.as_mut().map(|s| s as &mut dyn Read));
        Ended {
            _folder: self.folder.clone(),
            status,
            output,
            errors,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `ready` holds.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !ready() {
        assert!(Instant::now() < deadline, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
