//! Debian's GDB at a Linux guest on the software CPU.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gdb::{Gdb, symbol_file};
use crate::support::{Guest, Running};

const LIMIT: Duration = Duration::from_secs(240);

/// What is asked for in the kernel.
const SYMBOLS: [&str; 5] = [
    "version_proc_show",
    "linux_banner",
    "jiffies_64",
    "start_kernel",
    "_text",
];

/// The part of a guest's script that tells them.
fn tell_symbols() -> String {
    let names = SYMBOLS.join("|");
    format!("echo BEGIN symbols\ngrep -E ' ({names})$' /proc/kallsyms\necho END symbols\n")
}

/// Symbols of a guest that told them, in a file for GDB.
fn symbols(console: &str, folder: &Path) -> PathBuf {
    let lines = console.split("BEGIN symbols\n").nth(1).unwrap();
    let lines = lines.split("END symbols\n").next().unwrap();
    let symbols: Vec<(&str, u64)> = lines
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
            (words.nth(1).unwrap(), address)
        })
        .collect();
    assert_eq!(symbols.len(), SYMBOLS.len(), "{lines}");
    let path = folder.join("symbols");
    fs::write(&path, symbol_file(&symbols)).unwrap();
    path
}

/// A guest with a debugger's socket, at which no kernel moves itself.
fn guest(cpus: u32, options: &[&str]) -> (Guest, PathBuf) {
    let mut guest = Guest::new(cpus)
        .args(["--accel", "soft"])
        .args(options)
        .append("nokaslr");
    let socket = guest.path_option("--gdb", "", "gdb");
    (guest, socket)
}

/// One that reads its kernel's banner over and over, until it is told to end.
fn reader(cpus: u32) -> (Running, PathBuf, PathBuf) {
    let (guest, socket) = guest(cpus, &[]);
    let folder = guest.folder.path().to_owned();
    let script = format!(
        "{}while :; do cat /proc/version >/tmp/new; mv /tmp/new /tmp/banner; usleep 20000; done &\necho ready\n\
         while read word; do [ $word = end ] && break; sleep 1; echo \"$word: $(wc -c </tmp/banner)\"; echo \"told $word\"; done\n",
        tell_symbols()
    );
    let mut guest = guest.script(&script).spawn();
    guest.expect("ready\n", LIMIT);
    let symbols = symbols(&guest.console(), &folder);
    (guest, socket, symbols)
}

fn connect(gdb: &mut Gdb, socket: &Path, symbols: &Path) {
    gdb.run(&format!("file {}", symbols.display()));
    let said = gdb.run(&format!("target remote {}", socket.display()));
    assert!(said.contains("Remote debugging using"), "{said}");
}

#[test]
fn gdb_debugs_a_booted_kernel_and_leaves_it_as_it_was() {
    let Some(mut gdb) = Gdb::start("gdb_debugs_a_booted_kernel_and_leaves_it_as_it_was") else {
        return;
    };
    let (mut guest, socket, symbols) = reader(2);
    connect(&mut gdb, &socket, &symbols);

    // Threads are CPUs.
    let threads = gdb.run("info threads");
    assert!(
        threads.contains("(CPU 0)") && threads.contains("(CPU 1)"),
        "{threads}"
    );
    let mut bases = [1, 2].map(|thread| {
        gdb.run(&format!("thread {thread}"));
        let (user, kernel) = (gdb.value("$gs_base"), gdb.value("$k_gs_base"));
        user.max(kernel)
    });
    bases.sort();
    assert!(
        bases[0] > 0xffff_8000_0000_0000 && bases[0] != bases[1],
        "{bases:x?}"
    );

    // A breakpoint at a symbol, hit again and again, and steps from there.
    gdb.run("break *version_proc_show");
    for _ in 0..3 {
        let said = gdb.run("continue");
        assert!(
            said.contains("Breakpoint 1, ") && said.contains("version_proc_show"),
            "{said}"
        );
        assert_eq!(gdb.value("$pc"), gdb.value("&version_proc_show"));
    }
    assert_eq!(gdb.value("$cs"), 0x10);
    assert_eq!(gdb.value("$cr0") & 0x8000_0001, 0x8000_0001);
    assert_eq!(gdb.value("$efer") & 0xd01, 0xd01);
    let mut places = vec![gdb.value("$pc")];
    for _ in 0..5 {
        gdb.run("stepi");
        places.push(gdb.value("$pc"));
    }
    places.dedup();
    assert_eq!(places.len(), 6, "{places:x?}");
    let begin = gdb.value("&version_proc_show");
    assert!(
        places.iter().all(|place| place - begin < 0x100),
        "no interrupt is stepped into: {places:x?}"
    );

    // Memory by both kinds of address.
    let banner = "Linux version 6.";
    assert!(gdb.run("x/s &linux_banner").contains(banner));
    let physical = gdb.value("(unsigned long)&linux_banner - (unsigned long)&_text + 0x1000000");
    let said = gdb.run("monitor gva2gpa 0xffffffff81000000");
    assert!(said.contains("gpa: 0x1000000\n"), "{said}");
    gdb.run("maintenance packet Qqemu.PhyMemMode:1");
    let said = gdb.run(&format!("x/s {physical:#x}"));
    assert!(said.contains(banner), "{said}");
    assert!(gdb.run("x/s &linux_banner").contains("Cannot access memory"));
    gdb.run("maintenance packet Qqemu.PhyMemMode:0");
    assert!(gdb.run("x/s &linux_banner").contains(banner));

    // A watchpoint on what the clock counts.
    gdb.run("delete");
    gdb.run("watch *(unsigned long *)&jiffies_64");
    for _ in 0..2 {
        let said = gdb.run("continue");
        assert!(
            said.contains("Hardware watchpoint 2") && said.contains("New value"),
            "{said}"
        );
    }
    gdb.run("delete");
    gdb.run("rwatch *(unsigned char *)&linux_banner");
    gdb.run("delete");
    gdb.run("hbreak *version_proc_show");
    let said = gdb.run("continue");
    assert!(said.contains("Breakpoint 4, "), "{said}");

    // A register is changed: the function returns at once, as if it had written nothing.
    gdb.run("delete");
    let back = gdb.value("*(unsigned long *)$rsp");
    gdb.run("set $rax = 0");
    gdb.run(&format!("set $pc = {back:#x}"));
    gdb.run("set $rsp = $rsp + 8");
    assert_eq!(gdb.value("$pc"), back);

    // Interrupting a guest that runs.
    let said = gdb.run_and_interrupt(|| std::thread::sleep(Duration::from_millis(300)));
    assert!(said.contains("SIGINT"), "{said}");
    gdb.run("detach");
    guest.type_in("after\n");
    guest.expect("told after\n", LIMIT);
    guest.type_in("end\n");
    guest.wait(LIMIT).assert_clean();
}

#[test]
fn code_that_gdb_changes_is_executed_as_it_is_now() {
    let Some(mut gdb) = Gdb::start("code_that_gdb_changes_is_executed_as_it_is_now") else {
        return;
    };
    let (mut guest, socket, symbols) = reader(2);
    guest.type_in("before\n");
    guest.expect("told before\n", LIMIT);
    connect(&mut gdb, &socket, &symbols);
    // xor eax, eax; ret: the file is empty.
    let old = gdb.value("*(unsigned int *)&version_proc_show");
    gdb.run("set {unsigned int}&version_proc_show = 0x90c3c031");
    gdb.run("detach");
    guest.type_in("changed\n");
    guest.expect("told changed\n", LIMIT);
    assert!(guest.console().contains("changed: 0\n"));
    connect(&mut gdb, &socket, &symbols);
    gdb.run(&format!("set {{unsigned int}}&version_proc_show = {old:#x}"));
    gdb.run("detach");
    guest.type_in("again\n");
    guest.expect("told again\n", LIMIT);
    guest.type_in("end\n");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    let count = |word: &str| {
        let line = outcome
            .console
            .lines()
            .find_map(|line| line.strip_prefix(word))
            .unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    assert!(count("before:") > 50 && count("again:") == count("before:"));
}

#[test]
fn gdb_has_a_guest_from_its_first_instruction_on() {
    let Some(mut gdb) = Gdb::start("gdb_has_a_guest_from_its_first_instruction_on") else {
        return;
    };
    let (told, _) = guest(1, &[]);
    let folder = tempfile::tempdir().unwrap();
    let told = told.script(&tell_symbols()).run(LIMIT);
    told.assert_clean();
    let symbols = symbols(&told.console, folder.path());

    let (waiting, socket) = guest(2, &["--gdb-wait"]);
    let guest = waiting.script("echo up").spawn();
    // Noise from someone who is no debugger changes nothing.
    let mut noise = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let bytes: Vec<u8> = (0..20_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let _ = noise.write_all(&bytes.iter().filter(|&&b| b != b'k').copied().collect::<Vec<_>>());
    drop(noise);
    connect(&mut gdb, &socket, &symbols);
    let said = gdb.run("monitor info status");
    assert!(said.contains("the guest is paused"), "{said}");
    // 64-bit mode, no page of the kernel's own mapped yet.
    assert!(gdb.value("$pc") < 0x1_0000_0000);
    assert!(gdb.run("x/i $pc").contains("=>"));
    assert!(gdb.run("x/x &start_kernel").contains("Cannot access memory"));
    gdb.run("break *start_kernel");
    let said = gdb.run("continue");
    assert!(
        said.contains("Breakpoint 1, ") && said.contains("start_kernel"),
        "{said}"
    );
    assert!(gdb.run("info threads").contains("* 1 "));
    assert!(gdb.run("x/s &linux_banner").contains("Linux version 6."));
    gdb.run("delete");
    gdb.run("detach");
    let outcome = guest.wait(LIMIT);
    outcome.assert_clean();
    assert!(outcome.console.contains("up\n"));
}
