//! How quickly work goes from one thread to another on this host.

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::worker::STACK;

/// Exchanges between two threads that are timed.
const EXCHANGES: usize = 16;
/// What one takes on a machine of its own, whose processors wake each other without help.
const USUAL: Duration = Duration::from_micros(5);
/// A host that seems to be slower than this many machines of its own is busy rather than slow.
const SLOWEST: u32 = 20;

/// `time`, which was chosen for a machine of its own, as it is to be on this host. Where the host is a guest itself, each wake-up between
/// its processors leaves guest mode, and what saves one is worth more waiting.
pub fn scaled(time: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| match exchange() {
        Ok(took) => factor(took),
        Err(error) => {
            tracing::debug!("how quickly threads wake each other could not be measured: {error}");
            1
        }
    });
    time * *factor
}

fn factor(exchange: Duration) -> u32 {
    let times = exchange.as_nanos() / USUAL.as_nanos();
    times.clamp(1, SLOWEST.into()) as u32
}

/// How long it takes to wake another thread and be woken by it: the quickest quarter of some tries, as others wait for a CPU on a busy
/// host, and the first one for the thread to be there.
fn exchange() -> io::Result<Duration> {
    let (ping, pong) = (EventFd::new(0)?, EventFd::new(0)?);
    let (heard, answer) = (ping.try_clone()?, pong.try_clone()?);
    let other = std::thread::Builder::new()
        .name("pace".into())
        .stack_size(STACK)
        .spawn(move || (0..EXCHANGES).try_for_each(|_| heard.read().and_then(|_| answer.write(1))))?;
    let mut took = [Duration::ZERO; EXCHANGES];
    for time in &mut took {
        let start = Instant::now();
        ping.write(1)?;
        pong.read()?;
        *time = start.elapsed();
    }
    other
        .join()
        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    took.sort_unstable();
    Ok(took[EXCHANGES / 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_host_waits_longer_within_limits() {
        for (micros, expected) in [
            (0, 1),
            (1, 1),
            (9, 1),
            (10, 2),
            (92, 18),
            (100, 20),
            (1_000_000, 20),
        ] {
            assert_eq!(factor(Duration::from_micros(micros)), expected, "{micros}");
        }
        let base = Duration::from_micros(100);
        let here = scaled(base);
        assert!(base <= here && here <= SLOWEST * base, "{here:?}");
        assert_eq!(scaled(base), here, "measured once");
    }
}
