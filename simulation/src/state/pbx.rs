//! The channels of one PBX.

use ringback::switchboard::InboundCallReport;
use ringback_core::ids::{CallId, ChannelId, PbxName};

use super::phones::Contact;

/// One PBX.
pub struct Pbx {
    pub name: PbxName,
    pub down_until: u64,
    /// Until when its reports go to the other region first.
    pub avoid_until: u64,
    pub channels: Vec<Channel>,
}

/// A channel that exists now.
#[derive(Clone, Debug)]
pub struct Channel {
    pub id: ChannelId,
    pub serial: u32,
    /// Which caller of the plan.
    pub caller: usize,
    pub role: Role,
    /// The call, once the PBX knows it.
    pub call: Option<CallId>,
    /// Whether its SIP call was answered.
    pub is_up: bool,
    pub bridged_to: Option<ChannelId>,
    /// The contact at which the callee's phone is dialed, and whether the phone is still there.
    pub dialed: Option<(Contact, bool)>,
}

#[derive(Clone, Debug)]
pub enum Role {
    /// A caller from the trunk.
    Caller(Box<InboundCallReport>),
    /// The leg of the calling app.
    AppCaller,
    /// The leg of the callee's phone, for the caller on this channel.
    Phone(ChannelId),
}

impl Pbx {
    pub fn all(count: usize) -> Vec<Self> {
        let named = |number: usize| PbxName::try_from(format!("pbx{number}")).ok();
        let pbx = |name| Self {
            name,
            down_until: 0,
            avoid_until: 0,
            channels: Vec::new(),
        };
        (1..=count).filter_map(named).map(pbx).collect()
    }

    pub const fn is_down(&self, elapsed: u64) -> bool {
        elapsed < self.down_until
    }

    pub fn channel(&self, id: &ChannelId) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.id == *id)
    }

    pub fn channel_mut(&mut self, id: &ChannelId) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.id == *id)
    }
}
