//! How quick everything goes, by profile and by the size of the mesh.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use crate::Profile;

/// Most bytes of foca's part of a datagram. What is left up to
/// [`DATAGRAM_MAX`](crate::DATAGRAM_MAX) is for news, however many members there are to talk about.
const SWIM_MAX: NonZeroUsize = NonZeroUsize::new(880).unwrap();
/// To how many members news goes at once, and how many are asked to probe for another.
pub(crate) const FANOUT: usize = 3;
/// From this many nodes on (this one included) probes are as far apart as they get.
const LARGE: usize = 16;
/// Up to this many nodes they are as close as they get.
const SMALL: usize = 5;

/// Time-outs and rates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    profile: Profile,
}

impl Pace {
    pub(crate) const fn new(profile: Profile) -> Self {
        Self { profile }
    }

    /// How long a probe takes until it has failed; as often one is begun.
    pub(crate) fn period(self, nodes: usize) -> Duration {
        self.scale(between(400, 1_000, nodes))
    }

    /// When a probe that was not answered goes indirect. Well below half the [`period`](Self::period).
    pub(crate) fn rtt(self, nodes: usize) -> Duration {
        self.scale(between(150, 300, nodes))
    }

    /// How late a timer may be served before the node counts as having been away.
    pub(crate) fn tolerance(self, nodes: usize) -> Duration {
        self.rtt(nodes) / 2
    }

    /// How long a suspect has to say no when others suspect him too.
    pub(crate) fn suspicion_min(self, nodes: usize) -> Duration {
        let more = (nodes as f64).log10().max(1.0);
        self.scale(1_000.0).mul_f64(more)
    }

    /// How long he has when this node is the only one, and there are others who could have said so.
    pub(crate) fn suspicion_max(self, nodes: usize) -> Duration {
        self.suspicion_min(nodes) * 4
    }

    /// How far gossip about the same news is apart.
    pub(crate) const fn gossip(self) -> Duration {
        Duration::from_millis(match self.profile {
            Profile::Lan => 200,
            Profile::Wan => 500,
            Profile::Local => 100,
        })
    }

    /// For how long nothing may have changed before a peer that knows something else is asked.
    pub(crate) fn settled(self) -> Duration {
        self.gossip() * 3
    }

    /// How many times a piece of news is told.
    pub(crate) fn tellings(self, nodes: usize) -> u8 {
        (4.0 * ((nodes + 1) as f64).log10().ceil()) as u8
    }

    /// foca's own settings. Its timers are taken by the mesh, so its times mean nothing but their order.
    pub(crate) fn foca(self, nodes: usize) -> foca::Config {
        foca::Config {
            probe_period: Duration::from_millis(1_000),
            probe_rtt: Duration::from_millis(300),
            num_indirect_probes: NonZeroUsize::new(FANOUT).unwrap_or(NonZeroUsize::MIN),
            max_transmissions: NonZeroU8::new(self.tellings(nodes)).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: Duration::from_secs(1),
            remove_down_after: None,
            max_packet_size: SWIM_MAX,
            notify_down_members: true,
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: None,
        }
    }

    fn scale(self, ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1_000.0).mul_f64(match self.profile {
            Profile::Lan => 1.0,
            Profile::Wan => 5.0,
            Profile::Local => 0.5,
        })
    }
}

/// From `small` at [`SMALL`] nodes to `large` at [`LARGE`].
fn between(small: u64, large: u64, nodes: usize) -> f64 {
    let part = (nodes.clamp(SMALL, LARGE) - SMALL) as f64 / (LARGE - SMALL) as f64;
    small as f64 + (large - small) as f64 * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_are_quicker_and_the_indirect_probe_has_its_time() {
        let lan = Pace::new(Profile::Lan);
        assert_eq!(lan.period(3), Duration::from_millis(400));
        assert_eq!(lan.period(1_000), Duration::from_secs(1));
        assert_eq!(lan.suspicion_min(100), Duration::from_secs(2));
        assert_eq!((lan.tellings(2), lan.tellings(100), lan.tellings(1_000)), (4, 12, 16));
        for profile in [Profile::Lan, Profile::Wan, Profile::Local] {
            let pace = Pace::new(profile);
            for nodes in [1, 2, 3, 8, 16, 5_000] {
                assert!(pace.rtt(nodes) * 2 < pace.period(nodes), "{profile} {nodes}");
                assert!(pace.tellings(nodes) > 0);
                assert!(pace.suspicion_min(nodes) < pace.suspicion_max(nodes));
            }
        }
        assert!(Pace::new(Profile::Wan).period(3) > lan.period(3) * 4);
    }
}
