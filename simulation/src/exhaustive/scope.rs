//! What people do in a scope, and what can go wrong.

/// A small world.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Its name on the command line.
    pub name: &'static str,
    /// How many regions there are. Device 1 sends its requests to the last one first.
    pub regions: u8,
    /// How many faults happen at most.
    pub faults: u8,
    /// Whether an app calls, instead of a caller on the trunk.
    pub from_app: bool,
    /// What the users of the devices may do while they ring.
    pub devices: &'static [Reaction],
    /// When they may do it.
    pub at: Moment,
    /// Whether the caller may hang up while waiting.
    pub caller_may_leave: bool,
    /// Whether a phone may ring for a while, or for too long, before it answers.
    pub phone_may_wait: bool,
    /// The region to which the PBX reports first what happens after the caller's arrival. It avoids one that did not answer.
    pub reports_to: u8,
    /// Who ends a conversation.
    pub hangs_up: HangsUp,
}

/// What the user of a device may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    Accept,
    Decline,
}

/// When users act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// As soon as the device rings.
    AtOnce,
    /// At any moment while it rings, the last one too.
    WhileItRings,
    /// At the last moment of the ring.
    AtTheDeadline,
}

/// Who ends a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangsUp {
    Caller,
    Phone,
    /// The app that answered, through Ringback.
    App,
}

const BASE: Scope = Scope {
    name: "",
    regions: 1,
    faults: 1,
    from_app: false,
    devices: &[Reaction::Accept, Reaction::Accept],
    at: Moment::AtOnce,
    caller_may_leave: false,
    phone_may_wait: false,
    reports_to: 0,
    hangs_up: HangsUp::Caller,
};

/// All scopes.
const ALL: [Scope; 15] = [
    Scope {
        name: "slow-phone",
        devices: &[Reaction::Accept],
        caller_may_leave: true,
        phone_may_wait: true,
        ..BASE
    },
    Scope {
        name: "fallback-2",
        regions: 2,
        devices: &[Reaction::Accept],
        reports_to: 1,
        ..BASE
    },
    Scope {
        name: "accept",
        devices: &[Reaction::Accept],
        ..BASE
    },
    Scope {
        name: "two-accept",
        ..BASE
    },
    Scope {
        name: "accept-decline",
        devices: &[Reaction::Accept, Reaction::Decline],
        hangs_up: HangsUp::Phone,
        ..BASE
    },
    Scope {
        name: "accept-caller-leaves",
        devices: &[Reaction::Accept],
        caller_may_leave: true,
        at: Moment::WhileItRings,
        ..BASE
    },
    Scope {
        name: "accept-deadline",
        devices: &[Reaction::Accept],
        at: Moment::AtTheDeadline,
        hangs_up: HangsUp::App,
        ..BASE
    },
    Scope {
        name: "app-call",
        from_app: true,
        devices: &[Reaction::Accept],
        ..BASE
    },
    Scope {
        name: "app-call-caller-leaves",
        from_app: true,
        devices: &[Reaction::Accept],
        caller_may_leave: true,
        ..BASE
    },
    Scope {
        name: "two-accept-2",
        regions: 2,
        ..BASE
    },
    Scope {
        name: "accept-2",
        regions: 2,
        devices: &[Reaction::Accept],
        ..BASE
    },
    Scope {
        name: "accept-decline-2",
        regions: 2,
        devices: &[Reaction::Accept, Reaction::Decline],
        hangs_up: HangsUp::Phone,
        ..BASE
    },
    Scope {
        name: "accept-caller-leaves-2",
        regions: 2,
        devices: &[Reaction::Accept],
        caller_may_leave: true,
        ..BASE
    },
    Scope {
        name: "accept-deadline-2",
        regions: 2,
        devices: &[Reaction::Accept],
        at: Moment::AtTheDeadline,
        hangs_up: HangsUp::App,
        ..BASE
    },
    Scope {
        name: "app-call-2",
        regions: 2,
        from_app: true,
        devices: &[Reaction::Accept],
        ..BASE
    },
];

impl Scope {
    /// All scopes.
    #[must_use]
    pub const fn all() -> &'static [Self] {
        &ALL
    }

    /// The scope with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|scope| scope.name == name)
    }

    /// The other region, if there is one.
    pub(super) const fn other(&self, region: u8) -> u8 {
        if self.regions == 2 {
            1 - region
        } else {
            region
        }
    }

    /// The region to which the app of a device sends its requests first: in the last device's case the last region.
    pub(super) fn region_of(&self, device: u8) -> u8 {
        let is_last = usize::from(device) + 1 == self.devices.len();
        if is_last { self.regions - 1 } else { 0 }
    }
}
