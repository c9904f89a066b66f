//! A connection to Open vSwitch's database server, or to the control socket of its daemon: both speak JSON-RPC 1.0.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::stream::Stream;
use crate::{Error, Kind};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Rpc {
    socket: UnixStream,
    stream: Stream,
    calls: u64,
    /// After an error nobody knows whose answer comes next.
    broken: bool,
    patience: Duration,
}

fn answer(why: impl Into<String>) -> Error {
    Error::Answer {
        who: Kind::OpenVSwitch,
        why: why.into(),
    }
}

impl Rpc {
    pub(super) fn connect(path: &Path) -> Result<Self, Error> {
        let what = format!("connecting to Open vSwitch at {}", path.display());
        let socket = UnixStream::connect(path).map_err(Error::io(what))?;
        socket
            .set_write_timeout(Some(PATIENCE))
            .map_err(Error::io("setting up the connection to Open vSwitch"))?;
        Ok(Self {
            socket,
            stream: Stream::default(),
            calls: 0,
            broken: false,
            patience: PATIENCE,
        })
    }

    #[cfg(test)]
    pub(super) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Calls a method; the result is what the server gave, `Err(text)` inside if it gave an error.
    pub(super) fn call(&mut self, method: &str, params: Value) -> Result<Result<Value, String>, Error> {
        if self.broken {
            return Err(answer(
                "the connection is not usable after an error; connect anew",
            ));
        }
        self.broken = true;
        let result = self.exchange(method, params)?;
        self.broken = false;
        Ok(result)
    }

    fn exchange(&mut self, method: &str, params: Value) -> Result<Result<Value, String>, Error> {
        self.calls += 1;
        let id = json!(self.calls);
        self.send(&json!({"method": method, "params": params, "id": id}))?;
        let deadline = Instant::now() + self.patience;
        loop {
            let mut message = self.receive(deadline)?;
            if message.get("method").is_some() {
                self.serve(&message)?;
            } else if message.get("id") == Some(&id) {
                let error = message["error"].take();
                return Ok(match error {
                    Value::Null => Ok(message["result"].take()),
                    Value::String(text) => Err(text),
                    other => Err(other.to_string()),
                });
            } else {
                return Err(answer("an answer to what was not asked"));
            }
        }
    }

    /// The server asks whether we are there (RFC 7047, 4.1.11); it may notify, too, of what we never asked.
    fn serve(&mut self, message: &Value) -> Result<(), Error> {
        let is_echo = message["method"] == "echo" && !message["id"].is_null();
        if !is_echo {
            return Ok(());
        }
        self.send(&json!({"result": message["params"], "error": null, "id": message["id"]}))
    }

    fn send(&mut self, message: &Value) -> Result<(), Error> {
        self.socket
            .write_all(message.to_string().as_bytes())
            .map_err(Error::io("asking Open vSwitch"))
    }

    fn receive(&mut self, deadline: Instant) -> Result<Value, Error> {
        const WHAT: &str = "waiting for Open vSwitch's answer";
        let mut chunk = vec![0; 1 << 16];
        loop {
            if let Some(message) = self.stream.next().map_err(answer)? {
                return Ok(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::io(WHAT)(io::ErrorKind::TimedOut.into()));
            }
            self.socket
                .set_read_timeout(Some(left))
                .map_err(Error::io(WHAT))?;
            match self.socket.read(&mut chunk) {
                Ok(0) => return Err(Error::io(WHAT)(io::ErrorKind::UnexpectedEof.into())),
                Ok(len) => self.stream.push(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::io(WHAT)(io::ErrorKind::TimedOut.into()));
                }
                Err(error) => return Err(Error::io(WHAT)(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A server that answers a connection's first request as told.
    fn against(serve: impl FnOnce(UnixStream) + Send + 'static) -> Result<Result<Value, String>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
        let mut rpc = Rpc::connect(&path)
            .unwrap()
            .with_patience(Duration::from_millis(500));
        let result = rpc.call("list_dbs", json!([]));
        if result.is_err() {
            assert!(
                rpc.call("list_dbs", json!([])).is_err(),
                "a broken connection stays so"
            );
        }
        drop(rpc);
        server.join().unwrap();
        result
    }

    fn saying(text: &'static str) -> impl FnOnce(UnixStream) + Send {
        move |mut socket| {
            socket.write_all(text.as_bytes()).unwrap();
            let _ = io::copy(&mut socket, &mut io::sink());
        }
    }

    #[test]
    fn answers_errors_and_echoes_are_told_apart() {
        let result = against(saying(r#"{"id":1,"result":["a"],"error":null}"#));
        assert_eq!(result.unwrap(), Ok(json!(["a"])));
        let result = against(saying(r#"{"id":1,"result":null,"error":"no"}"#));
        assert_eq!(result.unwrap(), Err("no".into()));
        let result = against(|mut socket| {
            let notes =
                r#"{"method":"update","params":[],"id":null}{"method":"echo","params":["x"],"id":"e"}"#;
            socket.write_all(notes.as_bytes()).unwrap();
            let mut seen = String::new();
            while !seen.contains(r#""id":"e""#) {
                let mut bytes = [0; 512];
                let len = socket.read(&mut bytes).unwrap();
                assert!(len > 0, "{seen}");
                seen += std::str::from_utf8(&bytes[..len]).unwrap();
            }
            assert!(seen.contains(r#""result":["x"]"#), "{seen}");
            socket.write_all(br#"{"id":1,"result":7,"error":null}"#).unwrap();
        });
        assert_eq!(result.unwrap(), Ok(json!(7)));
    }

    #[test]
    fn a_hostile_server_is_left() {
        for text in [
            r#"{"id":2,"result":[],"error":null}"#,
            "HTTP/1.0 400",
            "{\"id\":1,",
            "",
            "[[[[",
            "{\"id\":1,\"result\":\u{7f}}",
        ] {
            assert!(against(saying(text)).is_err(), "{text}");
        }
        assert!(against(drop).is_err());
    }

    #[test]
    fn a_server_that_never_ends_is_left() {
        // One message without an end: as much as fits, then no more.
        let result = against(|mut socket| {
            let block = [b'1'; 1 << 20];
            let _ = socket.write_all(br#"{"id":1,"result":["#);
            while socket.write_all(&block).is_ok() {}
        });
        assert!(result.is_err());
        // Byte after byte, each in time.
        let result = against(|mut socket| {
            while socket.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
    }
}
