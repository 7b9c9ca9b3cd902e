//! How near a consumer is (NSQ reference, section 2.16). Pure.

/// Where a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its region.
    pub(crate) region: String,
    /// Its zone in that region.
    pub(crate) zone: String,
}

/// How near somebody is; the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Proximity {
    /// In the same zone.
    Zone,
    /// In the same region.
    Region,
    /// Anywhere.
    Any,
}

impl Place {
    /// How near `region` and `zone` are. For a node that does not know where it is, nobody is near.
    pub(crate) fn proximity(&self, region: &str, zone: &str) -> Proximity {
        if self.region.is_empty() && self.zone.is_empty() {
            Proximity::Any
        } else if self.zone == zone && (self.region == region || self.region.is_empty() || region.is_empty())
        {
            Proximity::Zone
        } else if self.region == region {
            Proximity::Region
        } else {
            Proximity::Any
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_one_of_its_region() {
        let here = Place { region: "eu".to_owned(), zone: "a".to_owned() };
        assert_eq!(here.proximity("eu", "a"), Proximity::Zone);
        assert_eq!(here.proximity("eu", "b"), Proximity::Region);
        assert_eq!(here.proximity("us", "a"), Proximity::Any);
        assert_eq!(here.proximity("", "a"), Proximity::Zone, "who names a zone only is in it");
        assert_eq!(here.proximity("", ""), Proximity::Any);
        assert_eq!(Place::default().proximity("", ""), Proximity::Any);
        let zone_only = Place { region: String::new(), zone: "a".to_owned() };
        assert_eq!(zone_only.proximity("", "a"), Proximity::Zone);
        assert_eq!(zone_only.proximity("", ""), Proximity::Region);
    }
}
