//! `loop`: one I/O operation again and again, as the host asks for it line by line. Before each line is read, `BENCH ready` is said;
//! so the host can look at its counters while nothing goes on.
//!
//! Packets are Ethernet frames of a type for experiments, past all protocols of the kernel: what is measured is the card and its driver. The
//! frame's next byte says what the peer does with it, the four after that are its number:
//!
//! | byte | the peer |
//! |---|---|
//! | [`ANSWER`] | sends it back |
//! | [`COUNT`] | counts it |
//! | [`SUM`] | sends it back with the number of those counted since the last, and begins anew |

use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{READ_LEN, open_direct, parse, report};

/// IEEE 802, local experimental ethertype 1.
const ETHERTYPE: u16 = 0x88b5;
const HEADER: usize = 14;
/// The shortest frame without its checksum, and the longest.
const SHORT: usize = 60;
const LONG: usize = 1514;
const ANSWER: u8 = 0;
const COUNT: u8 = 1;
const SUM: u8 = 2;
/// Frames of a stream between two answers.
const BURST: u32 = 128;
/// Whom frames are for: the peer takes all.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// How long a device or an answer may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does what standard input says, to its end or to `end`.
pub fn serve() -> Result<(), String> {
    loop {
        println!("BENCH ready");
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line).map_err(|e| e.to_string())?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["end"] => return Ok(()),
            [] if read == 0 => return Ok(()),
            ["nothing"] => report("nothing", 1, Instant::now()),
            ["read", file, count] => read_randomly(Path::new(file), parse(count)?)?,
            ["echo", driver, count] => Card::open(driver)?.echo(parse(count)?)?,
            ["stream", driver, count] => Card::open(driver)?.stream(parse(count)?)?,
            _ => return Err(format!("{line:?} is nothing to do")),
        }
    }
}

/// Waits until `is_there`.
fn wait_for(what: &str, is_there: impl Fn() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !is_there() {
        if Instant::now() > deadline {
            return Err(format!("{what} did not come"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Reads blocks of a disk each of which begins with its number.
fn read_randomly(file: &Path, count: u64) -> Result<(), String> {
    let name = file.display().to_string();
    let failed = |error: io::Error| format!("{name}: {error}");
    wait_for(&name, || file.exists())?;
    let mut disk = open_direct(&name)?;
    let blocks = io::Seek::seek(&mut disk.file, io::SeekFrom::End(0)).map_err(failed)? / READ_LEN as u64;
    if blocks == 0 {
        return Err(format!("{name} is shorter than {READ_LEN} bytes"));
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let since = Instant::now();
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let block = state % blocks;
        let found = disk.read_at(block * READ_LEN as u64).map_err(failed)?;
        if found.get(..8) != Some(&block.to_le_bytes()[..]) {
            return Err(format!("{name}: block {block} has other contents"));
        }
    }
    report("read", count, since);
    Ok(())
}

/// A socket for frames at one card.
struct Card {
    socket: OwnedFd,
    address: [u8; 6],
}

impl Card {
    /// The card that `driver` drives, once its cable is in.
    fn open(driver: &str) -> Result<Self, String> {
        let name = find_card(driver)?;
        let about =
            |what: &str| fs::read_to_string(format!("/sys/class/net/{name}/{what}")).unwrap_or_default();
        wait_for(&format!("the cable of {name}"), || about("carrier").trim() == "1")?;
        let mut address = [0; 6];
        for (byte, digits) in address.iter_mut().zip(about("address").trim().split(':')) {
            *byte = u8::from_str_radix(digits, 16).map_err(|e| format!("the address of {name}: {e}"))?;
        }
        let index: i32 = about("ifindex")
            .trim()
            .parse()
            .map_err(|e| format!("the index of {name}: {e}"))?;
        let socket = bind(index).map_err(|e| format!("a socket at {name}: {e}"))?;
        Ok(Self { socket, address })
    }

    /// Sends a short frame and waits for it to come back, `count` times.
    fn echo(&self, count: u64) -> Result<(), String> {
        let since = Instant::now();
        for number in 0..count as u32 {
            self.send(&self.frame(ANSWER, number, SHORT))?;
            self.receive(ANSWER, number)?;
        }
        report("echo", count, since);
        Ok(())
    }

    /// Sends long frames as fast as the card takes them, and asks after each burst how many came: a peer that waits for a CPU
    /// would lose what no buffer holds.
    fn stream(&self, count: u64) -> Result<(), String> {
        let since = Instant::now();
        let mut left = count as u32;
        while left > 0 {
            let burst = left.min(BURST);
            for number in 0..burst {
                self.send(&self.frame(COUNT, number, LONG))?;
            }
            self.send(&self.frame(SUM, 0, SHORT))?;
            let came = self.receive(SUM, burst);
            came.map_err(|e| format!("of {burst} frames not all came: {e}"))?;
            left -= burst;
        }
        report("stream", count, since);
        Ok(())
    }

    fn frame(&self, kind: u8, number: u32, len: usize) -> Vec<u8> {
        let mut frame = vec![0; len];
        frame[..6].copy_from_slice(&PEER);
        frame[6..12].copy_from_slice(&self.address);
        frame[12..HEADER].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[HEADER] = kind;
        frame[HEADER + 1..HEADER + 5].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn send(&self, frame: &[u8]) -> Result<(), String> {
        // SAFETY: the pointer and the length are those of a slice.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent == frame.len() as isize {
            return Ok(());
        }
        Err(format!("sending: {}", io::Error::last_os_error()))
    }

    /// Waits for the peer's frame of this kind and number.
    fn receive(&self, kind: u8, number: u32) -> Result<(), String> {
        let mut frame = [0u8; LONG];
        // SAFETY: the pointer and the length are those of an array.
        let len = unsafe { libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        if len < 0 {
            return Err(format!("no answer: {}", io::Error::last_os_error()));
        }
        let said = u32::from_be_bytes([frame[15], frame[16], frame[17], frame[18]]);
        if frame[HEADER] == kind && said == number {
            return Ok(());
        }
        Err(format!(
            "an answer to {}:{said} instead of {kind}:{number}",
            frame[HEADER]
        ))
    }
}

/// The name of the interface that `driver` drives.
fn find_card(driver: &str) -> Result<String, String> {
    let cards = fs::read_dir("/sys/class/net").map_err(|e| e.to_string())?;
    let mut names = cards.flatten().filter(|card| {
        let link = fs::read_link(card.path().join("device/driver"));
        link.is_ok_and(|link| link.file_name().is_some_and(|name| name == driver))
    });
    let found = names
        .next()
        .ok_or_else(|| format!("no card with the driver {driver}"))?;
    Ok(found.file_name().to_string_lossy().into_owned())
}

/// A socket that sends whole frames at the interface `index` and receives those of our type.
fn bind(index: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; protocol 0 receives nothing before it is bound.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHERTYPE.to_be();
    address.sll_ifindex = index;
    // SAFETY: the pointer and the length are those of the struct.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    let patience = libc::timeval {
        tv_sec: PATIENCE.as_secs() as libc::time_t,
        tv_usec: 0,
    };
    // SAFETY: the pointer and the length are those of the struct.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const patience).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
