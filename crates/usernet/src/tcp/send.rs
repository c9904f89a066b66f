//! What the guest gets: how much may be out, what was lost, and what is sent next.
//!
//! Congestion control is RFC 5681's with a large first window, as the cable leads to the same machine: it is there for a guest that is too
//! slow for what its port holds. What is lost is found by selective acknowledgments (RFC 6675), by three duplicates and partial
//! acknowledgments from a guest without them (RFC 6582), and by the timer ([`timer`]).

mod timer;

pub use self::timer::Due;
use self::timer::TRIES_WHILE_CLOSED;
use super::after;
use super::bytes::Bytes;
use super::ranges::Ranges;
use super::timing::Timing;
use crate::time::Millis;
use crate::wire::Tcp;

/// Bytes that may be out at first.
const FIRST_WINDOW: usize = 256 << 10;
/// Duplicate acknowledgments that are a loss (RFC 5681, 3.2).
const DUPLICATES: u32 = 3;

/// What is sent again, until all is acknowledged that was out when a loss was noticed.
#[derive(Debug)]
struct Recovery {
    /// What had been sent then.
    end: u32,
    /// All lost before this was sent again.
    next: u32,
    /// The oldest that is out goes again, whatever the window says.
    oldest: bool,
}

/// A part of the stream to be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub sequence: u32,
    pub len: usize,
    pub fin: bool,
    /// Nothing waits behind it.
    pub push: bool,
    /// It fills a gap.
    again: bool,
}

/// The way from the host to the guest.
#[derive(Debug, Default)]
pub struct Sender {
    /// The oldest sequence number that the guest has not acknowledged (SND.UNA), the next one to send (SND.NXT), and the
    /// end of what was ever sent.
    pub unacknowledged: u32,
    pub next: u32,
    pub highest: u32,
    /// The guest's window in bytes, its shift, and the sequence and acknowledgment number that told it.
    pub window: u32,
    pub shift: u8,
    told_by: (u32, u32),
    pub mss: usize,
    /// From `unacknowledged` on; a SYN that is out is not in it.
    bytes: Bytes,
    /// The host's socket gives nothing more: a FIN follows the bytes.
    pub done: bool,
    /// Our FIN went out at least once.
    fin_sent: bool,
    /// The guest understands selective acknowledgments, and has these.
    pub sack: bool,
    sacked: Ranges,
    duplicates: u32,
    recovery: Option<Recovery>,
    /// No loss is looked for before all of this is acknowledged: it was sent again already.
    recovered: u32,
    /// Bytes that may be out, and above how many they grow slowly.
    congestion: usize,
    threshold: usize,
    timing: Timing,
    /// The end of what is being timed, and when it was sent.
    timed: Option<(u32, Millis)>,
    /// Sent in vain since the guest last said something new.
    tries: u32,
    probing: bool,
    pub timer: Option<Millis>,
    /// How often the guest was asked what it has since it last said so, and whether it is to be asked now, by the end of what is out.
    questions: u32,
    asks: bool,
    /// When the timer last had something sent again.
    sent_again: Option<Millis>,
}

impl Sender {
    /// One whose first sequence number is `first`.
    pub fn new(first: u32) -> Self {
        Self {
            unacknowledged: first,
            next: first,
            highest: first,
            recovered: first,
            mss: 536,
            congestion: FIRST_WINDOW,
            threshold: usize::MAX,
            ..Self::default()
        }
    }

    /// Our SYN goes out, perhaps again. False if that was often enough.
    pub fn send_syn(&mut self, most: u32, now: Millis) -> bool {
        self.highest = self.unacknowledged.wrapping_add(1);
        self.timer = Some(now + self.timing.wait());
        self.timing.back_off();
        self.tries += 1;
        self.tries <= most
    }

    /// The guest acknowledged our SYN by a segment.
    pub fn opened(&mut self, by: &Tcp<'_>) {
        self.timing = Timing::default();
        self.unacknowledged = self.highest;
        self.next = self.highest;
        self.recovered = self.highest;
        self.told_by = (by.sequence, by.acknowledgment);
        self.calm();
        self.timer = None;
    }

    /// Bytes that wait or are out.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory for what waits or is out.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The host's socket gave `bytes`.
    #[cfg(any(test, fuzzing))]
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.push(bytes);
    }

    /// Room for `len` bytes of the host's socket; [`Sender::filled`] says how many there are.
    pub fn spare(&mut self, len: usize) -> [&mut [u8]; 2] {
        self.bytes.spare(len)
    }

    pub fn filled(&mut self, len: usize) {
        self.bytes.lengthen(len);
    }

    pub fn payload(&self, part: &Part) -> [&[u8]; 2] {
        let at = part.sequence.wrapping_sub(self.unacknowledged) as usize;
        self.bytes.pieces(at, part.len)
    }

    /// Our FIN went out, and came back acknowledged.
    pub fn fin_acknowledged(&self) -> bool {
        self.fin_sent && self.bytes.is_empty() && self.unacknowledged == self.highest
    }

    /// Sequence numbers that are out.
    fn out(&self) -> usize {
        self.highest.wrapping_sub(self.unacknowledged) as usize
    }

    /// The guest answers.
    fn calm(&mut self) {
        self.tries = 0;
        self.duplicates = 0;
        self.probing = false;
    }

    /// Takes in what a segment acknowledges. True if it is to be answered: it acknowledges what was never sent.
    pub fn acknowledge(&mut self, segment: &Tcp<'_>, limit: usize, now: Millis) -> bool {
        let acknowledged = segment.acknowledgment.wrapping_sub(self.unacknowledged) as usize;
        if acknowledged > self.out() {
            // Of the past, or of what was never sent (RFC 9293, 3.10.7.4).
            return after(segment.acknowledgment, self.highest);
        }
        let news = self.note_sacked(segment);
        let window = u32::from(segment.window) << self.shift;
        if acknowledged > 0 {
            self.advance(acknowledged, limit, now);
        } else if window > 0 && self.window == 0 {
            // Probes of a closed window were no loss.
            self.calm();
            self.timer = None;
            self.next = self.unacknowledged;
        } else if self.out() > 0 && self.is_duplicate(segment, news) {
            self.duplicates += 1;
            self.look_for_loss();
        }
        // An older segment that came late says an older window (RFC 9293, 3.10.7.4).
        let (sequence, acknowledgment) = self.told_by;
        if !after(sequence, segment.sequence)
            && (segment.sequence != sequence || !after(acknowledgment, segment.acknowledgment))
        {
            self.window = window;
            self.told_by = (segment.sequence, segment.acknowledgment);
        }
        if self.window == 0 {
            self.tries = self.tries.min(TRIES_WHILE_CLOSED);
        }
        false
    }

    /// A segment that acknowledges nothing new says that something came behind a gap: by naming it (RFC 6675, 2), or from a guest that
    /// names nothing by its shape (RFC 5681, 2).
    fn is_duplicate(&self, segment: &Tcp<'_>, names_more: bool) -> bool {
        let window = u32::from(segment.window) << self.shift;
        let shape = segment.payload.is_empty() && window == self.window && window > 0;
        if self.sack { names_more } else { shape }
    }

    /// The guest has this much more.
    fn advance(&mut self, acknowledged: usize, limit: usize, now: Millis) {
        // A FIN has a number, but no byte in the buffer.
        self.bytes.consume(acknowledged);
        self.bytes.settle(limit);
        self.unacknowledged = self.unacknowledged.wrapping_add(acknowledged as u32);
        if after(self.unacknowledged, self.next) {
            self.next = self.unacknowledged;
        }
        if after(self.unacknowledged, self.recovered) {
            self.recovered = self.unacknowledged;
        }
        self.sacked.trim(self.unacknowledged);
        if let Some((end, at)) = self.timed
            && !after(end, self.unacknowledged)
        {
            self.timing.measure(now.saturating_sub(at));
            self.timed = None;
        }
        self.calm();
        self.note_answer(now);
        match &mut self.recovery {
            Some(recovery) if after(recovery.end, self.unacknowledged) => {
                // The next of what was lost, if the guest does not name it (RFC 6582, 3.2).
                recovery.oldest = !self.sack;
            }
            Some(_) => {
                self.recovery = None;
                self.congestion = self.threshold;
            }
            None if self.congestion < self.threshold => self.congestion += acknowledged,
            None => self.congestion += (self.mss * acknowledged / self.congestion.max(1)).max(1),
        }
        self.congestion = self.congestion.min(limit.max(FIRST_WINDOW));
        self.timer = (self.out() > 0).then(|| now + self.patience());
    }

    /// Notes what the guest has beyond a gap. True if that is something new.
    fn note_sacked(&mut self, segment: &Tcp<'_>) -> bool {
        if !self.sack {
            return false;
        }
        let before = self.sacked.count_from(self.unacknowledged);
        for (start, end) in segment.sack.iter() {
            // What is acknowledged, too, came twice (RFC 2883).
            let is_out =
                after(start, segment.acknowledgment) && after(end, start) && !after(end, self.highest);
            if is_out && after(start, self.unacknowledged) {
                self.sacked.add((start, end));
            }
        }
        self.sacked.count_from(self.unacknowledged) > before
    }

    /// Begins to send again what seems lost (RFC 5681, 3.2; RFC 6675, 5).
    fn look_for_loss(&mut self) {
        let beyond = self.sacked.count_from(self.unacknowledged);
        let lost = self.duplicates >= DUPLICATES
            || self.sacked.len() >= DUPLICATES as usize
            || beyond > (DUPLICATES as usize - 1) * self.mss;
        if lost && self.recovery.is_none() && !after(self.recovered, self.unacknowledged) {
            self.recover();
        }
    }

    /// Sends again what the guest seems to lack, the oldest first.
    fn recover(&mut self) {
        if !after(self.recovered, self.unacknowledged) {
            self.threshold = (self.out() / 2).max(2 * self.mss);
            self.congestion = self.threshold;
        }
        self.recovered = self.highest;
        self.timed = None;
        self.recovery = Some(Recovery {
            end: self.highest,
            next: self.unacknowledged,
            oldest: true,
        });
    }

    /// Bytes that count as under way.
    fn under_way(&self) -> usize {
        let Some(recovery) = self.recovery.as_ref().filter(|_| self.sack) else {
            let out = self.next.wrapping_sub(self.unacknowledged) as usize;
            // Each duplicate says that something has arrived.
            return out.saturating_sub(self.duplicates as usize * self.mss);
        };
        let from = if after(recovery.next, self.unacknowledged) {
            recovery.next
        } else {
            self.unacknowledged
        };
        // After the timer ran out, what lies behind SND.NXT counts as lost until it is sent again.
        let behind = self.sacked.count_from(self.next);
        let before_next = |at| self.sacked.count_from(at).saturating_sub(behind);
        let has = before_next(self.unacknowledged);
        let end = self.sacked.end();
        let end = end.map(|end| if after(end, self.next) { self.next } else { end });
        let lost = end.filter(|end| after(*end, from)).map_or(0, |end| {
            (end.wrapping_sub(from) as usize).saturating_sub(before_next(from))
        });
        let out = self.next.wrapping_sub(self.unacknowledged) as usize;
        out.saturating_sub(has + lost)
    }

    /// What is to be sent next, `most` bytes or fewer.
    pub fn next_part(&self, most: usize) -> Option<Part> {
        let free = self.congestion.saturating_sub(self.under_way());
        let question = self.asks.then(|| self.last_part(most)).flatten();
        question
            .or_else(|| self.lost_part(free, most))
            .or_else(|| self.new_part(free, most))
    }

    /// The end of the bytes that were sent.
    fn sent_end(&self) -> u32 {
        let data_end = self.unacknowledged.wrapping_add(self.bytes.len() as u32);
        if after(self.highest, data_end) {
            data_end
        } else {
            self.highest
        }
    }

    /// A part of what was sent, once more.
    fn again(&self, start: u32, end: u32, most: usize) -> Option<Part> {
        let sent = self.sent_end();
        let end = if after(end, sent) { sent } else { end };
        if !after(end, start) {
            return None;
        }
        let len = (end.wrapping_sub(start) as usize).min(most);
        let reaches_end =
            start.wrapping_add(len as u32) == self.unacknowledged.wrapping_add(self.bytes.len() as u32);
        Some(Part {
            sequence: start,
            len,
            fin: self.fin_sent && reaches_end,
            push: reaches_end,
            again: true,
        })
    }

    /// Something that was lost.
    fn lost_part(&self, free: usize, most: usize) -> Option<Part> {
        let recovery = self.recovery.as_ref()?;
        let (start, end) = if recovery.oldest {
            let end = self.unacknowledged.wrapping_add(self.mss as u32);
            (
                self.unacknowledged,
                self.sacked.next_start(self.unacknowledged).unwrap_or(end),
            )
        } else {
            (free >= self.mss).then_some(())?;
            let from = if after(recovery.next, self.unacknowledged) {
                recovery.next
            } else {
                self.unacknowledged
            };
            self.sacked.gap(from)?
        };
        self.again(start, end, most)
    }

    /// Something at SND.NXT: new, or again after the timer ran out.
    fn new_part(&self, free: usize, most: usize) -> Option<Part> {
        let mut next = self.next;
        if let Some((_, end)) = self.sacked.around(next) {
            next = end;
        }
        let at = next.wrapping_sub(self.unacknowledged) as usize;
        let waiting = self.bytes.len().saturating_sub(at);
        let window = self.window.max(u32::from(self.probing)) as usize;
        let room = window.saturating_sub(at).min(if self.probing { 1 } else { free });
        // Less than a segment waits until there is room for one (RFC 9293, 3.8.6.2.1).
        let room = if room < self.mss.min(waiting) && at > 0 {
            0
        } else {
            room
        };
        let known = self.sacked.next_start(next);
        let gap = known.map_or(usize::MAX, |start| start.wrapping_sub(next) as usize);
        let len = waiting.min(room).min(most).min(gap);
        let push = len == waiting;
        let fin = self.done && push && at <= self.bytes.len() && !self.fin_acknowledged();
        (len > 0 || fin).then_some(Part {
            sequence: next,
            len,
            fin,
            push,
            again: false,
        })
    }

    /// A part was sent.
    pub fn sent(&mut self, part: &Part, now: Millis) {
        let end = part.sequence.wrapping_add(part.len as u32 + u32::from(part.fin));
        self.fin_sent |= part.fin;
        if part.again {
            if std::mem::take(&mut self.asks) {
                return;
            }
            if let Some(recovery) = &mut self.recovery {
                recovery.oldest = false;
                if after(end, recovery.next) {
                    recovery.next = end;
                }
            }
            return;
        }
        self.next = end;
        if after(end, self.highest) {
            self.highest = end;
            self.timed.get_or_insert((end, now));
        }
    }
}
