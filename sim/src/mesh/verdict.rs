//! I11, I13, I14, I21: what must be true of the answers of all nodes, once the faults are over for a while.

use std::collections::{BTreeMap, BTreeSet};

use super::{GOSSIP_PORT, survey::Survey};
use crate::{check::Finding, world::TCP_PORT};

/// What the run knows to be so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth {
    /// The addresses of the members that run.
    pub alive: BTreeSet<String>,
    /// The addresses of those that do not.
    pub dead: BTreeSet<String>,
    /// Topics that were deleted.
    pub deleted_topics: BTreeSet<String>,
    /// Channels that were deleted, with their topics.
    pub deleted_channels: BTreeSet<(String, String)>,
    /// Topics with channels that exist.
    pub known: BTreeMap<String, BTreeSet<String>>,
    /// Topics that are none of the mesh's business.
    pub foreign: BTreeSet<String>,
}

/// What is wrong as soon as the mesh has had its time after the faults, whatever clients do meanwhile. The
/// answers come with the names of the nodes.
#[must_use]
pub fn soon(truth: &Truth, surveys: &BTreeMap<String, Survey>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, survey) in surveys {
        members(truth, node, survey, &mut findings);
        deleted(truth, node, survey, &mut findings);
        for (topic, channels) in &truth.known {
            let found = survey.channels.get(topic);
            if !found.is_some_and(|found| channels.is_subset(found)) || !survey.topics.contains(topic) {
                let text = format!("{node} does not know {topic} with {channels:?}, but {found:?}");
                findings.push(Finding::new("I13", text));
            }
        }
    }
    findings
}

/// What is wrong when nobody has changed anything for a while: the answers must be the same everywhere, and
/// true.
#[must_use]
pub fn at_rest(truth: &Truth, surveys: &BTreeMap<String, Survey>) -> Vec<Finding> {
    let mut findings = soon(truth, surveys);
    if let Some((first, rest)) = surveys.iter().collect::<Vec<_>>().split_first() {
        findings.extend(rest.iter().filter_map(|other| differ(first, other)));
    }
    for (node, survey) in surveys {
        for (topic, producers) in &survey.producers {
            let holders = surveys.iter().filter(|(_, other)| other.held.contains_key(topic));
            let holders: BTreeSet<String> =
                holders.filter_map(|(other, _)| truth.address_of(other)).collect();
            if *producers != holders {
                let text =
                    format!("{node} names {producers:?} as producers of {topic}, and it is on {holders:?}");
                findings.push(Finding::new("I13", text));
            }
        }
        for (topic, channels) in &survey.held {
            let known = survey.channels.get(topic).into_iter().flatten();
            let missing: Vec<&String> = known
                .filter(|channel| !channel.ends_with("#ephemeral") && !channels.contains(*channel))
                .collect();
            if !missing.is_empty() {
                let text = format!("{node} holds {topic} without {missing:?}, which the mesh knows");
                findings.push(Finding::new("I12", text));
            }
        }
    }
    findings
}

impl Truth {
    /// Where clients reach the node of this name; names are told to surveys as `name address`.
    fn address_of(&self, node: &str) -> Option<String> {
        let (_, address) = node.split_once(' ')?;
        Some(format!("{address}:{TCP_PORT}"))
    }
}

fn members(truth: &Truth, node: &str, survey: &Survey, findings: &mut Vec<Finding>) {
    let at = |address: &String| survey.members.get(&format!("{address}:{GOSSIP_PORT}")).map(String::as_str);
    for address in &truth.alive {
        if at(address) != Some("alive") {
            let text = format!("{node} takes {address}, which lives, for {:?}", at(address));
            findings.push(Finding::new("I14", text));
        }
        if !survey.nodes.contains_key(&format!("{address}:{TCP_PORT}")) {
            findings.push(Finding::new("I13", format!("{node} does not name {address} among the nodes")));
        }
    }
    for address in &truth.dead {
        if matches!(at(address), Some("alive" | "suspect")) {
            findings.push(Finding::new(
                "I14",
                format!("{node} takes {address}, which is gone, for {:?}", at(address)),
            ));
        }
    }
    let expected: BTreeSet<String> =
        truth.alive.iter().chain(&truth.dead).map(|address| format!("{address}:{GOSSIP_PORT}")).collect();
    for stranger in survey.members.keys().filter(|address| !expected.contains(*address)) {
        findings.push(Finding::new("I21", format!("{node} has the member {stranger}, which is none")));
    }
    let clients: BTreeSet<String> =
        truth.alive.iter().map(|address| format!("{address}:{TCP_PORT}")).collect();
    for stranger in survey.nodes.keys().filter(|address| !clients.contains(*address)) {
        findings.push(Finding::new("I14", format!("{node} sends clients to {stranger}, where nobody is")));
    }
    for topic in survey.topics.intersection(&truth.foreign) {
        findings.push(Finding::new("I21", format!("{node} knows {topic}, which is not of this mesh")));
    }
}

fn deleted(truth: &Truth, node: &str, survey: &Survey, findings: &mut Vec<Finding>) {
    for topic in &truth.deleted_topics {
        let known = survey.topics.contains(topic) || survey.producers.contains_key(topic);
        let elsewhere = survey.nodes.values().any(|topics| topics.contains(topic));
        if known || elsewhere || survey.held.contains_key(topic) {
            findings.push(Finding::new("I11", format!("{node} still has topic {topic}, which was deleted")));
        }
    }
    for (topic, channel) in &truth.deleted_channels {
        let has = |channels: &BTreeMap<String, BTreeSet<String>>| {
            channels.get(topic).is_some_and(|channels| channels.contains(channel))
        };
        if has(&survey.channels) || has(&survey.held) {
            findings.push(Finding::new(
                "I11",
                format!("{node} still has channel {topic}/{channel}, which was deleted"),
            ));
        }
    }
}

/// What two nodes answer differently, but for what each of them holds.
fn differ(first: &(&String, &Survey), other: &(&String, &Survey)) -> Option<Finding> {
    let (one, two) = (first.1, other.1);
    let what = if one.members != two.members {
        format!("members: {:?} and {:?}", one.members, two.members)
    } else if one.topics != two.topics {
        format!("topics: {:?}", one.topics.symmetric_difference(&two.topics).collect::<Vec<_>>())
    } else if one.channels != two.channels {
        format!("channels: {:?} and {:?}", one.channels, two.channels)
    } else if one.producers != two.producers {
        format!("producers: {:?} and {:?}", one.producers, two.producers)
    } else if one.nodes != two.nodes {
        format!("nodes: {:?} and {:?}", one.nodes, two.nodes)
    } else {
        return None;
    };
    Some(Finding::new("I13", format!("{} and {} differ in {what}", first.0, other.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Two nodes that agree: both hold `orders`, with the channel `archive`.
    fn agreed() -> (Truth, BTreeMap<String, Survey>) {
        let channels = BTreeMap::from([("orders".to_owned(), set(&["archive"]))]);
        let truth = Truth {
            alive: set(&["10.0.0.1", "10.0.0.2"]),
            deleted_topics: set(&["doomed"]),
            deleted_channels: [("orders".to_owned(), "goes".to_owned())].into(),
            known: channels.clone(),
            foreign: set(&["intruder"]),
            ..Truth::default()
        };
        let members = ["10.0.0.1:4160", "10.0.0.2:4160"].map(|node| (node.to_owned(), "alive".to_owned()));
        let survey = Survey {
            members: members.into(),
            topics: set(&["orders"]),
            channels: channels.clone(),
            producers: [("orders".to_owned(), set(&["10.0.0.1:4150", "10.0.0.2:4150"]))].into(),
            nodes: ["10.0.0.1:4150", "10.0.0.2:4150"].map(|node| (node.to_owned(), set(&["orders"]))).into(),
            held: channels,
        };
        let named = ["a 10.0.0.1", "b 10.0.0.2"].map(|node| (node.to_owned(), survey.clone()));
        (truth, named.into())
    }

    fn found(change: impl FnOnce(&mut Truth, &mut Survey)) -> Vec<&'static str> {
        let (mut truth, mut surveys) = agreed();
        change(&mut truth, surveys.values_mut().next().unwrap());
        let mut found: Vec<_> = at_rest(&truth, &surveys).iter().map(|finding| finding.invariant).collect();
        found.dedup();
        found
    }

    #[test]
    fn nodes_that_agree_with_the_truth_are_fine() {
        assert_eq!(found(|_, _| {}), [""; 0]);
    }

    #[test]
    fn who_takes_the_living_for_dead_or_the_dead_for_living_is_found() {
        let dead = |_: &mut Truth, survey: &mut Survey| {
            survey.members.insert("10.0.0.2:4160".to_owned(), "down".to_owned());
        };
        assert!(found(dead).contains(&"I14"));
        let alive = |truth: &mut Truth, _: &mut Survey| {
            truth.alive.remove("10.0.0.2");
            truth.dead.insert("10.0.0.2".to_owned());
        };
        assert!(found(alive).contains(&"I14"));
    }

    #[test]
    fn what_comes_back_after_it_was_deleted_is_found() {
        assert!(found(|_, survey| assert!(survey.topics.insert("doomed".to_owned()))).contains(&"I11"));
        assert!(found(|_, survey| drop(survey.held.insert("doomed".to_owned(), set(&[])))).contains(&"I11"));
        let channel = |_: &mut Truth, survey: &mut Survey| {
            survey.channels.insert("orders".to_owned(), set(&["archive", "goes"]));
        };
        assert!(found(channel).contains(&"I11"));
    }

    #[test]
    fn answers_that_differ_or_are_wrong_are_found() {
        assert_eq!(found(|_, survey| assert!(survey.topics.insert("more".to_owned()))), ["I13"]);
        assert_eq!(found(|_, survey| drop(survey.producers.insert("orders".to_owned(), set(&[])))), ["I13"]);
        assert_eq!(found(|_, survey| drop(survey.held.insert("orders".to_owned(), set(&[])))), ["I12"]);
        assert_eq!(found(|truth, _| drop(truth.known.insert("lost".to_owned(), set(&[])))), ["I13"]);
    }

    #[test]
    fn whoever_does_not_belong_here_is_found() {
        assert!(found(|_, survey| assert!(survey.topics.insert("intruder".to_owned()))).contains(&"I21"));
        let member = |_: &mut Truth, survey: &mut Survey| {
            survey.members.insert("10.0.0.9:4160".to_owned(), "alive".to_owned());
        };
        assert!(found(member).contains(&"I21"));
    }
}
