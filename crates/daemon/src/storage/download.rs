//! Bytes of a volume, or of another file, to a client, on a thread that waits for the client to take them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_libvirt::frame::MAX_STREAM_DATA;
use ostler_libvirt::types::StorageVolume;
use ostler_libvirt::{Code, Message, RemoteError, Status};

use super::{Pools, copy, failed, refused};
use crate::stream::{Peer, Stream};

/// A download.
pub struct Download {
    peer: Peer,
    over: AtomicBool,
    source: Source,
}

/// What is sent.
struct Source {
    file: File,
    begin: u64,
    end: u64,
    /// Holes are sent as such.
    sparse: bool,
}

impl Download {
    /// Sends what `volume` has from `offset` on: `length` bytes at most, or all if that is 0. Nothing moves before
    /// [`Download::run`].
    pub fn open(
        pools: &Arc<Pools>,
        volume: &StorageVolume,
        (offset, length): (u64, u64),
        sparse: bool,
        peer: Peer,
    ) -> Result<Arc<Self>, RemoteError> {
        // Reading needs no pool that is there: a file that is open stays.
        let (open, _, _) = pools.open_volume(volume, false)?;
        let all = open.file.metadata().map_err(refused("look at the volume"))?.len();
        if offset > all {
            let why = format!("the volume ends at {all} bytes, in front of the offset {offset}");
            return Err(failed(Code::InvalidArgument, why));
        }
        let end = match length {
            0 => all,
            length => offset.saturating_add(length).min(all),
        };
        Ok(Arc::new(Self {
            peer,
            over: AtomicBool::new(false),
            source: Source {
                file: open.file,
                begin: offset,
                end,
                sparse,
            },
        }))
    }

    /// Sends all of a file. Nothing moves before [`Download::run`].
    pub fn of_file(file: File, peer: Peer) -> io::Result<Arc<Self>> {
        let end = file.metadata()?.len();
        Ok(Arc::new(Self {
            peer,
            over: AtomicBool::new(false),
            source: Source {
                file,
                begin: 0,
                end,
                sparse: false,
            },
        }))
    }

    /// Starts to send.
    pub fn run(self: &Arc<Self>) {
        let download = self.clone();
        let started = std::thread::Builder::new()
            .name("download".into())
            .spawn(move || {
                if let Err(error) = download.send() {
                    download.fail(&refused::<io::Error>("read what is to be sent")(error));
                }
            });
        if let Err(error) = started {
            self.fail(&refused::<io::Error>("start a thread")(error));
        }
    }

    fn fail(&self, error: &RemoteError) {
        if !self.over.swap(true, Ordering::SeqCst) {
            self.peer.fail(error);
        }
    }

    /// True if there is somebody to send to, once there is room for more.
    fn goes_on(&self) -> bool {
        self.peer.wait_for_room() && !self.is_over()
    }

    fn send(&self) -> io::Result<()> {
        let Source {
            file,
            begin,
            end,
            sparse,
        } = &self.source;
        let mut at = *begin;
        while at < *end && self.goes_on() {
            let stop = match sparse {
                false => *end,
                true => match copy::next_data(file, at, *end)? {
                    Some((begin, stop)) if begin == at => stop,
                    // A hole in front of it, or up to the end.
                    found => {
                        let begin = found.map_or(*end, |(begin, _)| begin);
                        self.peer.hole(begin - at);
                        at = begin;
                        continue;
                    }
                },
            };
            let room = (stop - at).min(MAX_STREAM_DATA as u64) as usize;
            let mut chunk = vec![0; room];
            let count = match file.read_at(&mut chunk, at) {
                // It became shorter.
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            chunk.truncate(count);
            self.peer.data(chunk);
            at += count as u64;
        }
        // Nothing in it: that was all, and the client answers with its own end.
        if self.goes_on() {
            self.peer.data(Vec::new());
        }
        Ok(())
    }
}

impl Stream for Download {
    fn take(&self, message: Message) -> bool {
        if message.header.status == Status::Continue {
            // A client has nothing to say here.
            let why = "a stream that only goes to the client was sent data";
            self.fail(&failed(Code::InvalidStream, why));
            return false;
        }
        self.over.store(true, Ordering::SeqCst);
        self.peer.end();
        true
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn close(&self) {
        self.over.store(true, Ordering::SeqCst);
    }
}
