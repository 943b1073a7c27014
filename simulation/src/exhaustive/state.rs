//! The state of a small world: all that decides what can happen next. Lists are kept sorted, so equal worlds are equal states.

/// Milliseconds after the start.
pub type Time = u32;

/// A call in the list of all calls that were ever stored ([`super::rules::Rules`]).
pub type CallRef = u16;

/// How long a phone rings.
pub const RING: Time = 30_000;

/// How long a fault holds something back at most.
pub const HELD_FOR: Time = 15_000;

/// A conversation lasts for this long at least, and at most.
pub const SHORTEST_TALK: Time = 5_000;
pub const LONGEST_TALK: Time = 40_000;

/// `RINGBACK_MAX_WAIT_SECONDS`.
pub const LONGEST_WAIT: Time = 60_000;

/// How long the originate request lets a phone ring.
pub const PHONE_RINGS: Time = 30_000;

/// A small world.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub clock: Time,
    /// What each region has stored.
    pub stored: [Option<Version>; 2],
    /// Versions on their way to the other region.
    pub replicas: Vec<Replica>,
    /// When replication stopped.
    pub cut_since: Option<Time>,
    /// The region to which the PBX reports first.
    pub reports_to: u8,
    pub messages: Vec<Message>,
    pub processes: Vec<Process>,
    pub caller: CallerLeg,
    pub phone: PhoneLeg,
    /// The number of the phone's last leg.
    pub phone_attempt: u32,
    pub devices: Vec<Device>,
    pub faults_left: u8,
    pub truth: Truth,
}

/// A version of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// When it was written, among all versions that still count. The later one wins.
    pub stamp: u8,
    pub call: CallRef,
    /// The region that stored the call first.
    pub stored_in: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica {
    pub to: u8,
    pub version: Version,
    pub held_since: Option<Time>,
}

/// Something on its way to a function or a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    pub due: Time,
    pub region: u8,
    pub content: Content,
    pub from: Source,
    /// The time by the clock of the process that gets it, if this process has begun before.
    pub began: Option<Time>,
    pub held_since: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Content {
    Event(Happens),
    /// An app starts the call.
    Start,
    /// A push for this device.
    Push(u8),
}

/// Who sends a message, and so what happens if it gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The dialplan: it reports the caller's leg, and again 5 s later if there are two regions.
    Arrival {
        again: bool,
    },
    /// The dialplan reports something else.
    Hook,
    /// The app of this device.
    App(u8),
    /// The calling app.
    CallingApp,
    Queue,
    /// A schedule: that of the ring or of the conversation.
    Schedule {
        talk: bool,
    },
    PushService,
    /// A copy. No sender waits for its answer.
    Copy,
}

/// A side of a call, as [`ringback_core::call::CallSide`] has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Caller,
    Callee,
    Neither,
}

/// An event, as small as it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Happens {
    CallerReported,
    RequestedAgain,
    PushSent {
        at: Time,
    },
    CallerPhoneDialed,
    Accepted(u8),
    Declined(u8),
    AppHangsUp(u8),
    CallerLegEnded {
        answered: bool,
        by: Side,
    },
    PhoneLegEnded {
        attempt: u32,
        answered: bool,
        cause: u16,
        by: Side,
    },
    Bridged,
    BridgeEnded,
    NotBridged {
        rings: bool,
    },
    TimerFired,
    Overwritten(CallRef),
    EffectsCompleted {
        pending_since: Time,
    },
}

/// An effect, as small as it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Do {
    SendPush,
    /// The bits are the devices.
    CancelPush(u8),
    DialCallerPhone,
    /// Dials the phone. [`Do::LookForCaller`] follows.
    Bridge,
    /// Looks whether the caller's leg still exists. If not, [`Do::LookAtUselessPhone`] follows.
    LookForCaller,
    /// Looks at the phone that was dialed after its caller had left. If it rings, [`Do::EndPhone`] follows.
    LookAtUselessPhone,
    CheckBridge,
    /// Looks whether the caller's leg is answered. If so, [`Do::LookForTalk`] follows, else [`Do::RefuseCaller`].
    SendBusy,
    /// Looks whether the phone's leg is answered. If so, the two talk.
    LookForTalk,
    /// The caller hears busy. [`Do::EndPhone`] follows.
    RefuseCaller,
    /// Ends the caller's leg. [`Do::EndPhone`] follows.
    HangUp,
    /// Ends the phone's leg.
    EndPhone,
    ArmTimer(Time),
    MarkEffectsCompleted(Time),
    DisarmTimer,
}

/// A process of a function that has saved its event and has effects to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub region: u8,
    pub content: Content,
    pub from: Source,
    pub work: Work,
    pub held_since: Option<Time>,
}

/// The effects of one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    /// The call after the event.
    pub call: CallRef,
    pub now: Time,
    /// These are carried out at once.
    pub first: Vec<Task>,
    /// These follow one after the other, unless one of the others failed.
    pub last: Vec<Do>,
    pub has_failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    Do(Do),
    /// An effect has caused this event.
    Handle(Happens),
    /// The effects of the event that an effect caused.
    Inner(Work),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallerLeg {
    None,
    /// The phone of the calling app rings.
    Dialed,
    Waits,
    Talks,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhoneLeg {
    None,
    Rings { until: Time },
    Talks,
}

/// One device of the callee.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device {
    pub pushes: u8,
    /// Since when it rings.
    pub rings: Option<Time>,
    pub has_reacted: bool,
    /// Its phone answers a SIP call.
    pub answers: bool,
    /// A cancellation was sent after the last push.
    pub is_canceled: bool,
    /// The app knows what became of the call without a cancellation.
    pub is_settled: bool,
}

/// What has truly happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Truth {
    pub bridged_at: Option<Time>,
    /// When the call first ended in a table, other than as completed.
    pub unanswered_end: Option<Time>,
    pub caller_left: bool,
    pub app_hung_up: bool,
    pub was_replicated_late: bool,
    pub is_accept_done: bool,
    pub broken: Option<&'static str>,
}

impl Truth {
    pub fn violated(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    /// Whether the call had ended before its legs met, or just after.
    pub fn met_too_late(&self) -> bool {
        const MEETS_WITHIN: Time = 2_000;
        let times = self.unanswered_end.zip(self.bridged_at);
        times.is_some_and(|(ended, bridged)| ended <= bridged + MEETS_WITHIN)
    }
}

impl Message {
    /// Whether it can arrive now.
    pub const fn is_due(&self, clock: Time) -> bool {
        self.due <= clock && self.held_since.is_none()
    }
}

impl State {
    /// A waiting message that arrives at once.
    pub fn send(&mut self, region: u8, content: Content, from: Source) {
        self.send_at(self.clock, region, content, from);
    }

    pub fn send_at(&mut self, due: Time, region: u8, content: Content, from: Source) {
        self.messages.push(Message {
            due,
            region,
            content,
            from,
            began: None,
            held_since: None,
        });
    }

    /// Brings equal worlds into the same form.
    pub fn normalize(&mut self) {
        let stored = self.stored;
        self.replicas.retain(|replica| {
            let known = stored[usize::from(replica.to)];
            known.is_none_or(|known| known.stamp < replica.version.stamp)
        });
        let versions = stored.iter().flatten().map(|version| version.stamp);
        let replicas = self.replicas.iter().map(|replica| replica.version.stamp);
        let mut stamps: Vec<u8> = versions.chain(replicas).collect();
        stamps.sort_unstable();
        stamps.dedup();
        let place = |stamp: u8| {
            let place = stamps.iter().position(|known| *known == stamp);
            u8::try_from(place.unwrap_or(0)).unwrap_or(u8::MAX)
        };
        for version in self.stored.iter_mut().flatten() {
            version.stamp = place(version.stamp);
        }
        for replica in &mut self.replicas {
            replica.version.stamp = place(replica.version.stamp);
        }
        self.replicas.sort_unstable();
        self.messages.sort_unstable();
        for process in &mut self.processes {
            process.work.normalize();
        }
        self.processes.sort_unstable();
    }
}

impl Work {
    fn normalize(&mut self) {
        for task in &mut self.first {
            if let Task::Inner(work) = task {
                work.normalize();
            }
        }
        self.first.sort_unstable();
    }

    /// The tasks that can continue now. The event that an effect caused is handled after the timers of the same list are armed.
    pub fn ready(&self) -> impl Iterator<Item = usize> {
        let is_timer = |task: &Task| matches!(task, Task::Do(Do::ArmTimer(_)));
        let are_armed = !self.first.iter().any(is_timer);
        let tasks = self.first.iter().enumerate();
        tasks
            .filter(move |(_, task)| are_armed || !matches!(task, Task::Handle(_)))
            .map(|(place, _)| place)
    }

    pub fn is_done(&self) -> bool {
        self.first.is_empty() && (self.last.is_empty() || self.has_failed)
    }
}
