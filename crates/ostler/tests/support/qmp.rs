//! A client of the control socket that negotiates, executes commands, hands descriptors over and keeps the events.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// How long any answer or event may take.
const PATIENCE: Duration = Duration::from_secs(240);

pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
    /// The last lines that came.
    last: VecDeque<String>,
}

/// How many lines are shown of a connection that ended.
const LAST_LINES: usize = 10;

impl Qmp {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self {
            stream: BufReader::new(stream),
            events: VecDeque::new(),
            last: VecDeque::new(),
        };
        let greeting = client.receive();
        assert_eq!(greeting["QMP"]["capabilities"], json!([]), "{greeting}");
        client.execute("qmp_capabilities", json!({}));
        client
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            // It ended with something of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => line.clear(),
            read => {
                read.unwrap();
            }
        }
        assert!(
            !line.is_empty(),
            "the guest's process closed its control socket; what it said last: {:#?}",
            self.last
        );
        self.last.push_back(line.clone());
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Sends a text with a descriptor.
    fn send(&mut self, text: &str, descriptor: Option<BorrowedFd<'_>>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let list: Vec<_> = descriptor.into_iter().collect();
        if !list.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&list)));
        }
        let pieces = [IoSlice::new(text.as_bytes())];
        let sent = sendmsg(self.stream.get_ref(), &pieces, &mut ancillary, SendFlags::empty());
        assert_eq!(sent.unwrap(), text.len());
    }

    fn answer_to(&mut self, command: &str, arguments: Value, descriptor: Option<BorrowedFd<'_>>) -> Value {
        let call = json!({ "execute": command, "arguments": arguments });
        self.send(&call.to_string(), descriptor);
        loop {
            let heard = self.receive();
            if heard.get("event").is_none() {
                return heard;
            }
            self.events.push_back(heard);
        }
    }

    /// What a command returns; it must not fail.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let mut answer = self.answer_to(command, arguments, None);
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].take()
    }

    /// The same with a descriptor.
    pub fn execute_with(&mut self, command: &str, arguments: Value, descriptor: impl AsFd) -> Value {
        let mut answer = self.answer_to(command, arguments, Some(descriptor.as_fd()));
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].take()
    }

    /// The error of a command that must fail.
    pub fn refused(&mut self, command: &str, arguments: Value) -> Value {
        let mut answer = self.answer_to(command, arguments, None);
        assert!(answer.get("return").is_none(), "{command}: {answer}");
        answer["error"].take()
    }

    /// What a line for people says.
    pub fn line(&mut self, line: &str) -> String {
        let said = self.execute("human-monitor-command", json!({ "command-line": line }));
        said.as_str().unwrap().to_owned()
    }

    /// Waits for the next event, whichever it is.
    pub fn next_event(&mut self) -> Value {
        match self.events.pop_front() {
            Some(event) => event,
            None => self.receive(),
        }
    }

    /// Waits for the event `name`; those before it are gone.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let event = self.next_event();
            if event["event"] == name {
                return event;
            }
        }
    }
}
