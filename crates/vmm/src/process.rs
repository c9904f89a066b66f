//! The life of a guest's process, from the hand-over to the last word on the link.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use ostler_virtio::console::{ConsoleControl, WindowSize};

use crate::Error;
use crate::console::Console;
use crate::control::ControlServer;
use crate::driver::{Driver, DriverHandle, Request};
use crate::guest::{Consoles, Guest};
use crate::handoff::{self, Descriptors};
use crate::link::{self, FromGuest, Outcome, ToGuest};
use crate::spec::{BootSpec, ChannelSpec, ConsoleSpec, GuestSpec};

/// What the guest may take to end when the process that it belongs to is gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes a guest over from `socket`, runs it to its end, and reports there how it ended.
pub fn run(mut socket: UnixStream) -> Result<(), Error> {
    let (spec, descriptors) = handoff::receive(&mut socket)?;
    let driver = Driver::new(spec.on_reset);
    let consoles = Consoles {
        serial: Arc::new(Console::open("serial", &spec.serial, &descriptors)?),
        virtio: Arc::new(Console::open("console", &spec.console, &descriptors)?),
        debug: Arc::new(Console::open("debug", debug_console(&spec), &descriptors)?),
        channels: open_channels(&spec, &descriptors)?,
    };
    let mut guest = match Guest::build(&spec, &descriptors, &driver.handle(), &consoles) {
        Ok(guest) => guest,
        Err(error) => return say(&socket, &refusal(error)),
    };
    if let Some(slot) = spec.control {
        let listener = UnixListener::from(descriptors.duplicate(slot)?);
        let manager = guest.manager(&spec, driver.handle(), &consoles);
        guest.set_control(ControlServer::start(listener, manager)?);
    }
    // Whoever needs one has a copy: an image that is given up is to be free.
    drop(descriptors);
    listen_to_parent(
        &socket,
        driver.handle(),
        guest.console_control(),
        spec.ends_with_parent,
    )?;
    let first = match &spec.gdb {
        // A debugger lets it go on.
        Some(gdb) if gdb.wait => Request::Pause,
        _ => Request::Start,
    };
    driver.handle().ask(first, Box::new(|_| ()));
    say(&socket, &FromGuest::Started)?;
    let outcome = driver.run(&mut guest);
    drop(guest);
    consoles.serial.finish();
    consoles.virtio.finish();
    consoles.debug.finish();
    for channel in &consoles.channels {
        channel.finish();
    }
    say(&socket, &FromGuest::Ended(outcome))
}

fn open_channels(spec: &GuestSpec, descriptors: &Descriptors) -> Result<Vec<Arc<Console>>, Error> {
    let open = |channel: &ChannelSpec| Console::open("channel", &channel.leads_to, descriptors).map(Arc::new);
    spec.channels.iter().map(open).collect()
}

/// Where firmware writes its log.
fn debug_console(spec: &GuestSpec) -> &ConsoleSpec {
    match &spec.boot {
        BootSpec::Firmware(firmware) => &firmware.debug,
        BootSpec::Kernel(_) => &ConsoleSpec::None,
    }
}

/// What the user gave that cannot be is refused; anything else is the host's failure.
fn refusal(error: Error) -> FromGuest {
    match error {
        Error::Specification(message) => FromGuest::Refused { message },
        error => FromGuest::Ended(Outcome::Failed {
            message: error.to_string(),
        }),
    }
}

fn say(socket: &UnixStream, message: &FromGuest) -> Result<(), Error> {
    link::send(socket, message).map_err(|source| Error::host("report to the parent process", source))
}

/// Follows the parent's messages on a thread of its own. When the parent is gone, a guest that belongs to it ends.
fn listen_to_parent(
    socket: &UnixStream,
    driver: DriverHandle,
    console: Option<ConsoleControl>,
    ends_with_parent: bool,
) -> Result<(), Error> {
    let refused = |source| Error::host("listen to the parent process", source);
    let mut receiver = link::Receiver::new(socket.try_clone().map_err(refused)?);
    let listen = move || {
        while let Ok(Some(message)) = receiver.receive() {
            match message {
                ToGuest::PowerButton => driver.ask(Request::PowerButton, Box::new(|_| ())),
                ToGuest::Stop => driver.ask(Request::Abandon, Box::new(|_| ())),
                ToGuest::WindowSize { columns, rows } => {
                    if let Some(console) = &console {
                        console.resize(WindowSize { columns, rows });
                    }
                }
            }
        }
        if ends_with_parent {
            driver.ask(Request::Abandon, Box::new(|_| ()));
            // No one would notice a guest that hangs on its way out.
            std::thread::sleep(PATIENCE);
            std::process::abort();
        }
    };
    std::thread::Builder::new()
        .name("link".into())
        .spawn(listen)
        .map_err(refused)?;
    Ok(())
}
