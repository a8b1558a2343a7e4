//! Whether this node knows what the cluster has decided.
//!
//! A follower that was away applies old entries one after the other, and what it knows meanwhile was
//! true once. It has caught up when it has applied everything acknowledged before some moment since
//! it could reach the others again. Until then, and without a quorum, what runs goes on running.

#[derive(Debug, Default)]
pub struct Contact {
    quorum: bool,
    /// Counts the times that contact was made; a question belongs to one of them.
    count: u64,
    asked: bool,
    caught_up: bool,
}

impl Contact {
    /// Takes in whether there is a quorum; the question to be asked now, if any.
    pub fn see(&mut self, quorum: bool) -> Option<u64> {
        if quorum && !self.quorum {
            self.count += 1;
            self.asked = false;
            self.caught_up = false;
        }
        self.quorum = quorum;
        let ask = quorum && !self.caught_up && !self.asked;
        self.asked |= ask;
        ask.then_some(self.count)
    }

    /// A question was answered. One from before contact was lost says nothing of this one.
    pub fn answered(&mut self, question: u64, caught_up: bool) {
        if question == self.count {
            self.asked = false;
            self.caught_up = caught_up;
        }
    }

    /// What was seen last.
    pub fn quorum(&self) -> bool {
        self.quorum
    }

    /// Whether what is absent is gone, and what is to stop may be stopped.
    pub fn is_sure(&self) -> bool {
        self.quorum && self.caught_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_alone_makes_nothing_certain() {
        let mut contact = Contact::default();
        assert_eq!(contact.see(false), None);
        let question = contact.see(true);
        assert!(question.is_some() && !contact.is_sure());
        assert_eq!(contact.see(true), None, "asked once");
        contact.answered(question.unwrap(), false);
        assert!(!contact.is_sure());
        let again = contact.see(true);
        contact.answered(again.unwrap(), true);
        assert!(contact.is_sure());
        assert_eq!(contact.see(true), None);
    }

    #[test]
    fn contact_that_was_lost_has_to_be_confirmed_anew() {
        let mut contact = Contact::default();
        let early = contact.see(true).unwrap();
        contact.see(false);
        contact.answered(early, true);
        assert!(!contact.is_sure());
        let question = contact.see(true).unwrap();
        contact.answered(early, true);
        assert!(!contact.is_sure(), "an answer from before the loss");
        contact.answered(question, true);
        assert!(contact.is_sure());
        contact.see(false);
        assert!(!contact.is_sure());
    }
}
