//! What is done again and again.

/// How often each operation is done in a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    reads: u64,
    echoes: u64,
    frames: u64,
}

impl Counts {
    pub(super) const FULL: Self = Self {
        reads: 2_000,
        echoes: 500,
        frames: 2_000,
    };
    pub(super) const QUICK: Self = Self {
        reads: 500,
        echoes: 200,
        frames: 500,
    };

    /// A part of it, for what need not be as exact.
    pub(super) fn part(self) -> Self {
        Self {
            reads: self.reads / 5,
            echoes: self.echoes / 5,
            frames: self.frames / 5,
        }
    }
}

/// One of them, by one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The line and the answer, with nothing to do between: what the measuring costs.
    Nothing,
    /// A read of 4 KiB around the guest's page cache, at a random place.
    Read(Kind),
    /// A frame there and back.
    Echo(Kind),
    /// A long frame of a stream.
    Stream(Kind),
}

/// How the guest reaches its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As a PC does: AHCI, e1000e.
    Pc,
    /// Virtio.
    Virtio,
}

impl Operation {
    /// What is measured, in the order of the table.
    pub(super) const MEASURED: [Operation; 6] = [
        Operation::Read(Kind::Pc),
        Operation::Read(Kind::Virtio),
        Operation::Echo(Kind::Pc),
        Operation::Echo(Kind::Virtio),
        Operation::Stream(Kind::Pc),
        Operation::Stream(Kind::Virtio),
    ];

    /// For programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Nothing => "nothing",
            Operation::Read(Kind::Pc) => "read-ahci",
            Operation::Read(Kind::Virtio) => "read-virtio",
            Operation::Echo(Kind::Pc) => "echo-e1000e",
            Operation::Echo(Kind::Virtio) => "echo-virtio",
            Operation::Stream(Kind::Pc) => "stream-e1000e",
            Operation::Stream(Kind::Virtio) => "stream-virtio",
        }
    }

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Operation::Nothing => "nothing",
            Operation::Read(Kind::Pc) => "4 KiB read, AHCI",
            Operation::Read(Kind::Virtio) => "4 KiB read, virtio",
            Operation::Echo(Kind::Pc) => "packet there and back, e1000e",
            Operation::Echo(Kind::Virtio) => "packet there and back, virtio",
            Operation::Stream(Kind::Pc) => "packet of a stream, e1000e",
            Operation::Stream(Kind::Virtio) => "packet of a stream, virtio",
        }
    }

    /// What the guest's program is told.
    pub(super) fn line(self, counts: Counts) -> String {
        let disk = |kind| match kind {
            Kind::Pc => "/dev/sda",
            Kind::Virtio => "/dev/vda",
        };
        let driver = |kind| match kind {
            Kind::Pc => "e1000e",
            Kind::Virtio => "virtio_net",
        };
        match self {
            Operation::Nothing => "nothing".into(),
            Operation::Read(kind) => format!("read {} {}", disk(kind), counts.reads),
            Operation::Echo(kind) => format!("echo {} {}", driver(kind), counts.echoes),
            Operation::Stream(kind) => format!("stream {} {}", driver(kind), counts.frames),
        }
    }

    /// How the line with its result begins.
    pub(super) fn answer(self) -> &'static str {
        match self {
            Operation::Nothing => "BENCH nothing ",
            Operation::Read(_) => "BENCH read ",
            Operation::Echo(_) => "BENCH echo ",
            Operation::Stream(_) => "BENCH stream ",
        }
    }
}
