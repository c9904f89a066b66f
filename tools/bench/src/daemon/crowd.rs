//! Many clients at once, each with several calls on their way.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use ostler_libvirt::procedures::ConnectGetLibVersion;

use super::host::Host;
use crate::error::Error;

const CLIENTS: usize = 100;
const IN_FLIGHT: usize = 10;

/// How it went.
pub(super) struct Crowd {
    /// Calls a second, of all together.
    pub(super) rate: f64,
    /// Calls of the client that was served least, over the mean.
    pub(super) least_over_mean: f64,
}

/// Calls for `span`. An error of one client is an error.
pub(super) fn call(host: &Host, span: Duration) -> Result<Crowd, Error> {
    let clients: Result<Vec<_>, Error> = (0..CLIENTS).map(|_| host.client()).collect();
    let all_there = Barrier::new(CLIENTS);
    let counts: Result<Vec<usize>, Error> = thread::scope(|scope| {
        let threads: Vec<_> = clients?
            .into_iter()
            .map(|mut client| {
                let all_there = &all_there;
                scope.spawn(move || {
                    all_there.wait();
                    let (start, mut calls) = (Instant::now(), 0);
                    for _ in 0..IN_FLIGHT {
                        let call = client.packet::<ConnectGetLibVersion>(&())?;
                        client.send(&call)?;
                    }
                    while start.elapsed() < span {
                        client.answer()?;
                        calls += 1;
                        let call = client.packet::<ConnectGetLibVersion>(&())?;
                        client.send(&call)?;
                    }
                    for _ in 0..IN_FLIGHT {
                        client.answer()?;
                    }
                    Ok(calls)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    let counts = counts?;
    let mean = counts.iter().sum::<usize>() as f64 / CLIENTS as f64;
    let least = counts.iter().copied().min().unwrap_or_default();
    Ok(Crowd {
        rate: mean * CLIENTS as f64 / span.as_secs_f64(),
        least_over_mean: least as f64 / mean.max(1.0),
    })
}
