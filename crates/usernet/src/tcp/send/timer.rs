//! What happens when the guest says nothing: it is asked first what it has, as a lost segment or acknowledgment at the end of what is out
//! leaves it nothing to say (RFC 8985, 7); then all is sent again, and again after a longer while (RFC 6298).

use super::super::after;
use super::super::timing::{QUESTION, SHORTEST};
use super::{Part, Sender};
use crate::time::Millis;

/// So often something is sent before the guest counts as gone: about nine minutes, as one that is paused does not answer.
const MAX_TRIES: u32 = 15;
/// A guest that keeps its window closed and answers is not gone, however often that is.
pub(super) const TRIES_WHILE_CLOSED: u32 = 6;
/// So often the guest is asked before all counts as lost: what answers a question may be lost, too.
const MAX_QUESTIONS: u32 = 2;

/// Why the timer ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It did not.
    No,
    /// Something is sent again.
    Again,
    /// The guest is gone.
    Gone,
}

impl Sender {
    /// All that may be sent was: the timer runs while something is out or waits.
    pub fn wait(&mut self, now: Millis) {
        if self.timer.is_none() && (self.out() > 0 || !self.bytes.is_empty()) {
            self.timer = Some(now + self.patience());
        }
    }

    /// Looks at the timer. `has_room` says that what was sent has left.
    pub fn mind_timer(&mut self, has_room: bool, now: Millis) -> Due {
        if self.timer.is_none_or(|at| at > now) {
            return Due::No;
        }
        if !has_room {
            // Nothing was lost yet.
            self.timer = Some(now + SHORTEST);
            return Due::No;
        }
        if self.out() == 0 && self.window > 0 {
            // All waited for room only.
            self.timer = None;
            return Due::No;
        }
        if self.may_ask() {
            self.ask(now);
            return Due::Again;
        }
        self.give_up_what_is_out(now)
    }

    /// How long the guest may say nothing new.
    pub(super) fn patience(&self) -> Millis {
        if self.may_ask() {
            self.timing.question()
        } else {
            self.timing.wait()
        }
    }

    /// Whether a question says more than sending all again. A guest holds back its acknowledgment of a single segment longer than one waits
    /// with a question.
    fn may_ask(&self) -> bool {
        self.sack
            && self.window > 0
            && self.out() > self.mss
            && self.questions < MAX_QUESTIONS
            && self.timing.is_steady()
    }

    /// Has the guest say what it has: by the end of what is out, or by the first that is missing if it told of a gap. That was sent again
    /// before, and lost again, or too little came behind it to say that it is lost.
    fn ask(&mut self, now: Millis) {
        self.questions += 1;
        self.timer = Some(now + self.patience());
        self.timed = None;
        if self.sacked.is_empty() {
            self.asks = true;
        } else if let Some(recovery) = &mut self.recovery {
            recovery.oldest = true;
        } else {
            self.recover();
        }
    }

    /// The last of what is out.
    pub(super) fn last_part(&self, most: usize) -> Option<Part> {
        let end = self.sent_end();
        let start = end.wrapping_sub(self.mss.min(most) as u32);
        let start = if after(self.unacknowledged, start) {
            self.unacknowledged
        } else {
            start
        };
        self.again(start, end, most)
    }

    /// All that is out counts as lost.
    fn give_up_what_is_out(&mut self, now: Millis) -> Due {
        self.timing.back_off();
        self.timer = Some(now + self.timing.wait());
        self.tries += 1;
        if self.tries > MAX_TRIES {
            return Due::Gone;
        }
        if self.window == 0 {
            self.probing = true;
            let most = SHORTEST << TRIES_WHILE_CLOSED;
            self.timer = Some(now + self.timing.wait().min(most));
        } else {
            if self.tries == 1 {
                self.threshold = (self.out() / 2).max(2 * self.mss);
            }
            self.congestion = self.mss;
        }
        self.next = self.unacknowledged;
        self.recovered = self.highest;
        self.recovery = None;
        self.timed = None;
        self.duplicates = 0;
        self.sent_again = Some(now);
        // The guest may have forgotten what it had beyond a gap (RFC 2018, 8).
        self.sacked.clear();
        Due::Again
    }

    /// The guest has more. What was sent more than once is no measure of the way (RFC 6298, 3), but an answer that comes so soon is one to
    /// what was sent last: it was lost before, and a longer wait is of no use.
    pub(super) fn note_answer(&mut self, now: Millis) {
        self.questions = 0;
        self.asks = false;
        if let Some(at) = self.sent_again.take()
            && now.saturating_sub(at) <= QUESTION
        {
            self.timing.go_on();
        }
    }
}
