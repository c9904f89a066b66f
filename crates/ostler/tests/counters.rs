//! What `top --json` shows of guests that are busy, paused and asleep.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");
/// How long anything may take; generous, because the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the kernel is loaded.
const BASE: u32 = 0x10_0000;
/// jmp to itself.
const SPIN: &[u8] = &[0xeb, 0xfe];
/// cli; again: hlt; jmp again
const SLEEP: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

/// Where a kernel's own code begins: behind the header and what says `up`, seven bytes a letter.
const CODE: u32 = BASE + 32 + 3 * 7;
/// again: mov eax, [0xfee00020]; jmp again: a register of the local APIC.
const LAPIC: &[u8] = &[0xa1, 0x20, 0x00, 0xe0, 0xfe, 0xeb, 0xf9];

/// Turns paging on, then forgets all translations and needs one, again and again. Three instructions a page walk.
const WALKS: &[u8] = &[
    0xbf, 0x00, 0x00, 0x20, 0x00, // mov edi, 0x200000
    0xb8, 0x83, 0x00, 0x00, 0x00, // mov eax, 0x83: a page of 4 MiB, present and writable
    0x89, 0x07, // next: mov [edi], eax
    0x83, 0xc7, 0x04, // add edi, 4
    0x05, 0x00, 0x00, 0x40, 0x00, // add eax, 0x400000
    0x73, 0xf4, // jnc next
    0x0f, 0x20, 0xe0, 0x0c, 0x10, 0x0f, 0x22, 0xe0, // mov eax, cr4; or al, 0x10; mov cr4, eax
    0xb8, 0x00, 0x00, 0x20, 0x00, 0x0f, 0x22, 0xd8, // mov eax, 0x200000; mov cr3, eax
    0x0f, 0x20, 0xc3, 0x81, 0xcb, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22,
    0xc3, // mov ebx, cr0; or ebx, 0x80000000; mov cr0, ebx
    0x0f, 0x22, 0xd8, // again: mov cr3, eax
    0x8b, 0x15, 0x00, 0x00, 0x80, 0x00, // mov edx, [0x800000]
    0xeb, 0xf5, // jmp again
];

/// Changes an instruction of its own, executes it, and so on: each time it has to be decoded. 204 instructions each.
fn decodes() -> Vec<u8> {
    // again: inc byte [changing + 1]
    let mut code = vec![0xfe, 0x05];
    code.extend((CODE + 7).to_le_bytes());
    code.extend([
        0xb0, 0x00, // changing: mov al, 0
        0xb9, 100, 0x00, 0x00, 0x00, // mov ecx, 100
        0x49, 0x75, 0xfd, // less: dec ecx; jnz less
        0xeb, 0xee, // jmp again
    ]);
    code
}

/// A Multiboot kernel that says `up` and then does `code` for ever.
fn kernel(code: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES_VALID: u32 = 1 << 16;
    let header = [
        MAGIC,
        ADDRESSES_VALID,
        0u32.wrapping_sub(MAGIC + ADDRESSES_VALID),
        BASE,
        BASE,
        0,
        0,
        BASE + 32,
    ];
    let mut file: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for byte in *b"up\n" {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        file.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]);
    }
    file.extend(code);
    file
}

/// A guest with a control socket.
struct Guest {
    child: Child,
    control: PathBuf,
    _folder: tempfile::TempDir,
}

impl Guest {
    /// Starts one and waits until it says that it is up.
    fn start(accelerator: &str, code: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, kernel(code)).unwrap();
        let control = folder.path().join("control");
        let child = Command::new(OSTLER)
            .args(["run", "--memory", "16M", "--accel", accelerator, "--kernel"])
            .arg(&path)
            .arg("--control")
            .arg(&control)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut guest = Self {
            child,
            control,
            _folder: folder,
        };
        guest.expect("up\n");
        guest
    }

    /// Waits until it has said this next.
    fn expect(&mut self, text: &str) {
        let mut said = vec![0; text.len()];
        self.child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), text);
    }

    /// What `ostler top --json` shows.
    fn look(&self) -> Value {
        self.look_with(&[])
    }

    /// The same with further options.
    fn look_with(&self, options: &[&str]) -> Value {
        let output = Command::new(OSTLER)
            .args(["top", "--json"])
            .args(options)
            .arg(&self.control)
            .output()
            .unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Looks until `good` holds.
    fn look_until(&self, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen = self.look();
            if good(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "waiting for {what}: {seen:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Executes `commands` at the control socket, one after the other.
fn control(path: &Path, commands: &[&str]) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut answers = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    for command in ["qmp_capabilities"].iter().chain(commands) {
        writeln!(stream, "{{\"execute\":\"{command}\"}}").unwrap();
        let answer = answers.find(|text| text.get("return").is_some() || text.get("error").is_some());
        assert!(answer.unwrap().get("return").is_some(), "{command}");
    }
}

fn count(look: &Value, pointer: &str) -> u64 {
    let found = look.pointer(&format!("/vcpus/0/{pointer}"));
    found
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {pointer} in {look:#}"))
}

#[test]
fn the_counters_of_a_busy_guest_move() {
    let guest = Guest::start("soft", SPIN);
    let first = guest.look_until("guest time", |look| look["vcpus"][0]["time-ns"]["guest"].is_u64());
    guest.look_until("more of it", |look| {
        count(look, "time-ns/guest") > count(&first, "time-ns/guest")
            && count(look, "instructions") > count(&first, "instructions")
    });
}

#[test]
fn a_busy_loop_is_the_hottest_address() {
    let guest = Guest::start("soft", SPIN);
    let spot = &guest.look_with(&["--hot", "5"])["hot"]["addresses"][0];
    let code = kernel(&[]).len() as u32;
    assert_eq!(spot["address"], format!("{:#x}", BASE + code));
    assert_eq!(spot["privilege"], "kernel");
    assert_eq!(spot["symbol"], Value::Null);
    assert!(spot["share"].as_f64() > Some(0.9), "{spot}");
    assert!(spot["samples"].as_u64() > Some(0), "{spot}");
}

#[test]
fn only_who_looks_for_hot_addresses_has_them_sampled() {
    let guest = Guest::start("soft", SPIN);
    let plain = guest.look();
    assert_eq!(plain.get("hot"), None);
    let threads = || -> Vec<String> {
        let folder = format!("/proc/{}/task", plain["vcpus"][0]["thread-id"]);
        let names = fs::read_dir(folder)
            .unwrap()
            .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    };
    let samples = || threads().iter().any(|name| name == "sampler");
    assert!(threads().iter().any(|name| name == "vcpu0") && !samples());
    guest.look_with(&["--hot", "1"]);
    assert!(samples());
    let deadline = Instant::now() + LIMIT;
    while samples() {
        assert!(Instant::now() < deadline, "it goes on for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    // And again.
    assert!(guest.look_with(&["--hot", "1"])["hot"]["samples"].as_u64() > Some(0));
}

#[test]
fn a_sleeping_cpu_is_not_woken_up_to_be_sampled() {
    // mov al, 0xff; out 0x21, al: nothing wakes it, not even the timer, which Multiboot leaves running as a BIOS does.
    let guest = Guest::start("soft", &[&[0xb0, 0xff, 0xe6, 0x21], SLEEP].concat());
    let halts = |look: &Value| count(look, "exits/halt");
    let asleep = guest.look_until("a sleep", |look| halts(look) > 0);
    let look = guest.look_with(&["--hot", "5"]);
    assert_eq!(look["hot"]["samples"], 0, "{look:#}");
    assert_eq!(halts(&look), halts(&asleep));
}

#[test]
fn a_pause_is_no_time_in_user_mode() {
    const PAUSE: Duration = Duration::from_secs(1);
    let guest = Guest::start("soft", SPIN);
    let user = |look: &Value| count(look, "time-ns/user");
    guest.look_until("user time", |look| look["vcpus"][0]["time-ns"]["user"].is_u64());
    control(&guest.control, &["stop"]);
    let before = guest.look();
    assert_eq!(before["state"], "paused");
    std::thread::sleep(PAUSE);
    let paused = guest.look();
    assert_eq!(user(&paused), user(&before));
    assert_eq!(count(&paused, "time-ns/guest"), count(&before, "time-ns/guest"));
    control(&guest.control, &["cont"]);
    let on = guest.look_until("it to go on", |look| {
        count(look, "instructions") > count(&before, "instructions")
    });
    // It leaves for no device: its user time is that of the pause if anything is.
    let more = user(&on) - user(&before);
    assert!(u128::from(more) < PAUSE.as_nanos(), "{more} ns");
}

/// A guest that runs and does nothing but `code`: what is counted between two looks that are `instructions` apart.
fn looks_apart(code: &[u8], instructions: u64) -> (Value, Value) {
    let guest = Guest::start("soft", code);
    let after = |passed: u64| {
        guest.look_until("instructions", |look| {
            look["vcpus"][0]["instructions"].as_u64() >= Some(passed)
        })
    };
    // What happens once is over by then; the books are kept once in a million instructions.
    let first = after(2_000_000);
    let second = after(count(&first, "instructions") + instructions);
    (first, second)
}

/// Nanoseconds that no page walk, no decoding and no register takes less than: the clock is read twice for each.
const LEAST: u64 = 2;

#[test]
fn page_walks_decoding_and_the_lapic_are_kernel_time() {
    const INSTRUCTIONS: u64 = 2_000_000;
    for (name, code, each) in [
        ("page walks", WALKS.to_vec(), 3),
        ("decoding", decodes(), 204),
        ("the LAPIC", LAPIC.to_vec(), 2),
    ] {
        let begun = Instant::now();
        let (first, second) = looks_apart(&code, INSTRUCTIONS);
        let passed = begun.elapsed().as_nanos();
        let more = |pointer: &str| count(&second, pointer) - count(&first, pointer);
        let kernel = more("time-ns/kernel");
        let events = more("instructions") / each;
        assert!(
            kernel >= events * LEAST && u128::from(kernel) <= passed,
            "{name}: {events} times in {kernel} ns"
        );
        assert!(more("time-ns/guest") > 0, "{name}");
        assert_eq!(
            more("time-ns/user"),
            0,
            "{name}: nothing leaves for the vCPU's thread"
        );
        assert_eq!(second["vcpus"][0]["time-ns"]["idle"], Value::Null, "{name}");
    }
}

#[test]
fn what_needs_no_kernel_time_gets_none() {
    let (first, second) = looks_apart(SPIN, 100_000_000);
    assert_eq!(count(&second, "time-ns/kernel"), count(&first, "time-ns/kernel"));
    assert!(count(&second, "time-ns/guest") > count(&first, "time-ns/guest"));
}

/// A kernel's code that loads a descriptor table of its own and does `body`, which jumps to its end if something is wrong. Says
/// `good` or `bad!`, and sleeps.
fn checking(body: &[u8]) -> Vec<u8> {
    let say = |text: &str| -> Vec<u8> {
        // mov dx, 0x3f8; mov al, byte; out dx, al
        let letters = text.bytes();
        letters
            .flat_map(|b| [0x66, 0xba, 0xf8, 0x03, 0xb0, b, 0xee])
            .collect()
    };
    let (good, bad) = (say("good\n"), say("bad!\n"));
    // lgdt [table]
    let mut code = vec![0x0f, 0x01, 0x15];
    let end = 7 + body.len() + 2 * (good.len() + SLEEP.len());
    code.extend((CODE + end as u32).to_le_bytes());
    code.extend(body);
    for text in [good, bad] {
        code.extend(text);
        code.extend(SLEEP);
    }
    // The table: two descriptors, the second a flat code segment.
    code.extend(15u16.to_le_bytes());
    code.extend((CODE + end as u32 + 8).to_le_bytes());
    code.extend([0; 2 + 8]);
    code.extend(0x00cf_9b00_0000_ffffu64.to_le_bytes());
    code
}

/// Looks at its code segment a hundred times. Then writes MXCSR to a register of the I/O APIC, which keeps eight bits of it, and
/// loads MXCSR from there.
fn instructions_to_hand_over() -> Vec<u8> {
    let look = [
        0xb9, 0x08, 0x00, 0x00, 0x00, // again: mov ecx, 8
        0x0f, 0x03, 0xc1, // lsl eax, ecx
        0x75, 0, // jnz bad
        0x83, 0xf8, 0xff, // cmp eax, 0xffffffff
        0x75, 0, // jne bad
        0x0f, 0x02, 0xc1, // lar eax, ecx
        0x75, 0, // jnz bad
        0x3d, 0x00, 0x9b, 0xcf, 0x00, // cmp eax, 0x00cf9b00
        0x75, 0,    // jne bad
        0x4d, // dec ebp
    ];
    let reach = [
        0x0f, 0x20, 0xe0, 0x80, 0xcc, 0x02, 0x0f, 0x22, 0xe0, // mov eax, cr4; or ah, 2; mov cr4, eax
        0x0f, 0xae, 0x1d, 0x00, 0x00, 0xc0, 0xfe, // stmxcsr [0xfec00000]
        0xa1, 0x00, 0x00, 0xc0, 0xfe, // mov eax, [0xfec00000]
        0x3d, 0x80, 0x00, 0x00, 0x00, // cmp eax, 0x80
        0x75, 0, // jne bad
        0x0f, 0xae, 0x15, 0x00, 0x00, 0xc0, 0xfe, // ldmxcsr [0xfec00000]
        0x0f, 0xae, 0x1d, 0x00, 0x00, 0x20, 0x00, // stmxcsr [0x200000]
        0x81, 0x3d, 0x00, 0x00, 0x20, 0x00, 0x80, 0x00, 0x00, 0x00, // cmp dword [0x200000], 0x80
        0x75, 0, // jne bad
    ];
    let mut body = vec![0xbd, 100, 0x00, 0x00, 0x00]; // mov ebp, 100
    body.extend(look);
    body.extend([0x75, (-(look.len() as i8) - 2) as u8]); // jnz again
    body.extend(reach);
    // Each jump with an empty distance goes past what says `good`.
    let good = 5 * 7 + SLEEP.len();
    for at in 0..body.len() - 1 {
        if body[at] == 0x75 && body[at + 1] == 0 {
            body[at + 1] = (body.len() - (at + 2) + good) as u8;
        }
    }
    body
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_handed_over_and_counted() {
    const NAME: &str = "an_instruction_that_kvm_cannot_emulate_is_handed_over_and_counted";
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        eprintln!("SKIPPED {NAME}: /dev/kvm does not open: {error}");
        return;
    }
    let code = checking(&instructions_to_hand_over());
    // The guest itself is right.
    Guest::start("soft", &code).expect("good\n");
    let mut guest = Guest::start("kvm", &code);
    guest.expect("good\n");
    let look = guest.look();
    let handed = count(&look, "exits/emulation-failed");
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    if cpuinfo
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm")
    {
        println!("this host's processor executes them itself: {handed} were handed over");
    } else {
        // Two in each round, or one of them where the kernel can do the other.
        assert!(handed >= 100, "{look:#}");
    }
    // What comes between them leaves as ever: the letters and the load from the device.
    assert_eq!(count(&look, "exits/port-write"), 8, "{look:#}");
    assert!(count(&look, "exits/mmio-read") >= 1, "{look:#}");
}

#[test]
fn what_kvm_counts_is_shown_and_what_it_cannot_is_null() {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        eprintln!(
            "SKIPPED what_kvm_counts_is_shown_and_what_it_cannot_is_null: /dev/kvm does not open: {error}"
        );
        return;
    }
    let guest = Guest::start("kvm", SLEEP);
    // The kernel counts these two; they are fetched when someone looks.
    let look = guest.look_until("a halt", |look| {
        look["vcpus"][0]["exits"]["halt"].as_u64() > Some(0)
    });
    assert_eq!(look["accelerator"], "kvm");
    assert!(count(&look, "exits/port-write") >= 3, "{look:#}");
    count(&look, "exits/interrupt");
    count(&look, "time-ns/guest");
    count(&look, "time-ns/kernel");
    count(&look, "kicks/control");
    for unknown in [
        "exits/doorbell",
        "kicks/timer",
        "kicks/device",
        "kicks/ipi",
        "instructions",
        "software/translation-ns",
        "software/tlb-misses",
    ] {
        let value = look.pointer(&format!("/vcpus/0/{unknown}"));
        assert_eq!(value, Some(&Value::Null), "{unknown} in {look:#}");
    }
    assert_eq!(guest.look_with(&["--hot", "5"]).get("hot"), Some(&Value::Null));
    control(&guest.control, &["stop"]);
    let paused = guest.look();
    assert!(
        count(&paused, "exits/kick") >= 1 && count(&paused, "kicks/control") >= 1,
        "{paused:#}"
    );
}

#[test]
fn a_sleeping_guest_is_idle_while_it_sleeps() {
    let guest = Guest::start("soft", SLEEP);
    let idle = |look: &Value| count(look, "time-ns/idle");
    let begun = Instant::now();
    let first = guest.look_until("a sleep", |look| look["vcpus"][0]["time-ns"]["idle"].is_u64());
    let second = guest.look_until("more of it", |look| idle(look) > idle(&first));
    let passed = begun.elapsed().as_nanos();
    assert!(
        u128::from(idle(&second) - idle(&first)) <= passed,
        "more than all the time"
    );
    assert_eq!(
        count(&second, "exits/halt"),
        count(&first, "exits/halt"),
        "it is one sleep"
    );
}
