//! A search for the network that loses least within a budget.
//!
//! A recipe says how a network is made smaller: which layers are factorised, to how many
//! values or zeros the weights go, and which layer's channels are worth more. For each recipe
//! there is one largest network that the budget allows. It is fine-tuned for a few epochs
//! and its int8 model answers the validation pictures, which nothing learns from. Recipes
//! are tried one decision after the other: each decision is taken with the best of the
//! ones before.

use std::num::NonZeroU8;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use shared::layer::Layer;
use shared::{Model, ParseError};

use super::CompressOptions;
use super::cost::{Cost, CostError, Meter};
use super::factorise::factorise;
use super::finetune::finetune;
use super::importance::importance;
use super::per_layer::{OTHERS, PerLayer};
use super::prune::zero_smallest;
use super::share::fit_grids;
use super::structured::{Preference, Shrinking, StructuredError};
use crate::augment::Augmentation;
use crate::checkpoint::Checkpoint;
use crate::config::Pictures;
use crate::data::Dataset;
use crate::network::{NetworkError, Node};
use crate::quantise::Prefer;
use crate::score::Score;
use crate::simulate::{SimulateError, simulate};
use crate::train::{Hooks, Teacher, TrainError, TrainOptions, answers};

/// Bits that are tried where the file may be coded.
const BITS: [u8; 3] = [4, 3, 2];
/// Shares of zeros that are tried where they make the file smaller.
const SPARSITIES: [f32; 2] = [0.4, 0.7];
/// Bits that the first and the last layer are tried with beside these.
const INT8: u8 = 8;
/// Depthwise filters for each channel that are tried.
const RANKS: [u8; 2] = [1, 2];
/// How much more, or less, the channels of a layer are worth in a trial.
const PREFERENCES: [f64; 2] = [1.6, 0.6];
/// Share of a model file's room that is left free, because coded weights take a few more bits
/// once they are trained on.
const RESERVE: f64 = 0.03;

/// The most that a network may cost. What is not given is not limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Targets {
    /// Weights and biases, zeros counted.
    pub params: Option<u64>,
    /// Bytes of the model file.
    pub model_bytes: Option<u64>,
    /// Bytes of flash, model and firmware.
    pub flash: Option<u64>,
    /// Bytes of RAM: arena, statics and stack.
    pub ram: Option<u64>,
    /// Instructions of one inference.
    pub instructions: Option<u64>,
}

/// A limit that a network is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Over {
    /// The key of the limit.
    pub key: &'static str,
    /// What the network takes; nothing where it does not fit the board at all.
    pub is: Option<u64>,
    /// What it may take.
    pub most: u64,
}

impl Targets {
    /// Whether there is no limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a limit can only be checked with the firmware.
    pub fn need_chip(&self) -> bool {
        self.flash.is_some() || self.ram.is_some() || self.instructions.is_some()
    }

    /// The first limit that a cost is over.
    pub fn over(&self, cost: &Cost) -> Option<Over> {
        let chip = |value: fn(&super::cost::OnChip) -> u64| cost.on_chip.as_ref().map(value);
        let checks = [
            ("target_params", Some(cost.params as u64), self.params),
            (
                "target_model_bytes",
                Some(cost.model_bytes as u64),
                self.model_bytes,
            ),
            ("target_flash", chip(|c| c.flash_bytes), self.flash),
            ("target_ram", chip(|c| c.ram_bytes), self.ram),
            (
                "target_instructions",
                chip(|c| c.instructions),
                self.instructions,
            ),
        ];
        checks.into_iter().find_map(|(key, is, most)| {
            let most = most?;
            is.is_none_or(|is| is > most)
                .then_some(Over { key, is, most })
        })
    }
}

/// The cost of a network whose model file has grown by [`RESERVE`].
fn with_reserve(mut cost: Cost) -> Cost {
    let grown = (cost.model_bytes as f64 / (1.0 - RESERVE)).ceil() as usize;
    if let Some(chip) = &mut cost.on_chip {
        chip.flash_bytes += (grown - cost.model_bytes) as u64;
    }
    cost.model_bytes = grown;
    cost
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// Nothing to decide on.
    #[error(
        "a search needs pictures to decide on, that nothing learns from; set data.validation, for example to 0.1"
    )]
    NoValidation,
    /// No recipe comes under a limit.
    #[error(
        "compress.{key} = {most} cannot be met: the smallest network, with one channel in each layer, {}",
        nearest(least)
    )]
    Unreachable {
        /// The limit.
        key: &'static str,
        /// What was asked for.
        most: u64,
        /// What the smallest network takes, where it fits the board.
        least: Option<u64>,
    },
    /// What a network costs cannot be measured.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A layer cannot be split.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Channels cannot be removed.
    #[error(transparent)]
    Structured(#[from] StructuredError),
    /// A fine-tuning failed, or was stopped.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A model file that was just written is none.
    #[error(transparent)]
    Model(#[from] ParseError),
    /// The validation pictures are of other classes.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
}

fn nearest(least: &Option<u64>) -> String {
    match least {
        Some(least) => format!("takes {least}; give {least} or more"),
        None => "does not fit the board; choose a larger one".to_owned(),
    }
}

/// How a network is made smaller.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Recipe {
    /// Depthwise filters for each channel of factorised layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factorise: Option<PerLayer<NonZeroU8>>,
    /// Bits of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<PerLayer<u8>>,
    /// Distinct weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<PerLayer<u8>>,
    /// Share of the weights that become 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f32>,
    /// Most parameters that are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_params: Option<usize>,
    /// How much more than others the channels of a layer are worth.
    #[serde(default, skip_serializing_if = "Preference::is_empty")]
    pub preference: Preference,
}

impl Recipe {
    /// The one that options ask for.
    pub fn of(options: &CompressOptions) -> Self {
        Self {
            factorise: options.factorise.clone(),
            bits: options.bits.clone(),
            share: options.share.clone(),
            sparsity: options.sparsity,
            target_params: options.target_params,
            preference: options.preference.clone(),
        }
    }

    /// The options, with this recipe in place of the one that is asked for.
    fn into_options(self, others: &CompressOptions) -> CompressOptions {
        let Self {
            factorise,
            bits,
            share,
            sparsity,
            target_params,
            preference,
        } = self;
        CompressOptions {
            factorise,
            bits,
            share,
            sparsity,
            target_params,
            preference,
            ..others.clone()
        }
    }

    /// With so many depthwise filters for each channel of these layers.
    fn with_ranks(&self, layers: &[String], rank: NonZeroU8) -> Self {
        let mut ranks = match &self.factorise {
            Some(PerLayer::Named(ranks)) => ranks.clone(),
            _ => Default::default(),
        };
        ranks.extend(layers.iter().map(|name| (name.clone(), rank)));
        Self {
            factorise: Some(PerLayer::Named(ranks)),
            ..self.clone()
        }
    }

    /// A network with its layers split.
    fn factorised(&self, trained: &Checkpoint) -> Result<Checkpoint, NetworkError> {
        match &self.factorise {
            Some(ranks) => factorise(trained, ranks),
            None => Ok(trained.clone()),
        }
    }
}

/// A recipe that was tried.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// What was tried.
    pub recipe: Recipe,
    /// Layers that write channels, and how many are left.
    pub widths: Vec<(String, usize)>,
    /// What it costs after the trial.
    pub cost: Cost,
    /// Accuracy of its int8 model on the validation pictures, a fraction of 1.
    pub accuracy: f64,
}

/// What a search works with.
pub struct Search<'a> {
    /// The network before anything was done to it.
    pub before: &'a Checkpoint,
    /// The network to make smaller.
    pub trained: &'a Checkpoint,
    /// The one that teaches what is left of it.
    pub teacher: &'a Teacher,
    /// Pictures.
    pub pictures: &'a Pictures,
    /// What is not searched for.
    pub options: &'a CompressOptions,
    /// How it is trained.
    pub train: &'a TrainOptions,
    /// How pictures are changed for that.
    pub augmentation: &'a Augmentation,
    /// Measures.
    pub meter: &'a Meter<'a>,
    /// Once this is true, the search stops with [`TrainError::Interrupted`].
    pub stop: &'a AtomicBool,
    /// Trials that need not be done again.
    pub known: &'a [Trial],
    /// Is told of every trial, and of all before it.
    pub report: &'a dyn Fn(&[Trial]),
}

/// A network within the budget, not yet trained on.
pub struct Candidate {
    /// The network.
    pub start: Checkpoint,
    /// The options to train it on with.
    pub options: CompressOptions,
}

impl Search<'_> {
    /// The best recipe's network, and all that was tried, in order.
    pub fn run(&self) -> Result<(Candidate, Vec<Trial>), SearchError> {
        let validation = self.pictures.validation.as_ref();
        let validation = validation.ok_or(SearchError::NoValidation)?;
        let mut given = Recipe::of(self.options);
        if self.options.trial_epochs == 0 {
            return Ok((self.largest(&given)?, Vec::new()));
        }
        let mut tried = Tried {
            search: self,
            validation,
            trials: Vec::new(),
            failed: None,
        };
        if self.options.targets().is_empty() {
            given.target_params = Some(tried.smallest(&given)?);
        }
        let mut best = Best {
            recipe: given.clone(),
            accuracy: f64::NEG_INFINITY,
        };
        tried.decide(&mut best, |_| vec![given.clone()])?;
        if self.options.factorise.is_none() {
            let [dense, conv] = [self.dense_over_pictures(), self.inner_convolutions()];
            // What suits the dense layers may depend on the convolutions.
            for layers in [&dense, &conv, &dense] {
                tried.decide(&mut best, |best| ranks(best, layers))?;
            }
        }
        if self.may_be_coded() && !self.options.has_grids() {
            tried.decide(&mut best, |best| {
                let recipe = |bits| Recipe {
                    bits: Some(PerLayer::All(bits)),
                    ..best.clone()
                };
                BITS.map(recipe).to_vec()
            })?;
            tried.decide(&mut best, |best| self.ends_in_int8(best))?;
            tried.decide(&mut best, as_codebooks)?;
        }
        if self.zeros_pay() && self.options.sparsity.is_none() {
            tried.decide(&mut best, |best| {
                let recipe = |sparsity| Recipe {
                    sparsity: Some(sparsity),
                    ..best.clone()
                };
                SPARSITIES.map(recipe).to_vec()
            })?;
        }
        for layer in self.layers(&best.recipe)? {
            let recipe = |best: &Recipe, worth| {
                let mut recipe = best.clone();
                *recipe.preference.entry(layer.clone()).or_insert(1.0) *= worth;
                recipe
            };
            tried.decide(&mut best, |best| {
                PREFERENCES.map(|worth| recipe(best, worth)).to_vec()
            })?;
        }
        match tried.failed {
            Some(error) if tried.trials.is_empty() => Err(error),
            _ => Ok((self.largest(&best.recipe)?, tried.trials)),
        }
    }

    fn may_be_coded(&self) -> bool {
        self.counts_bytes() && self.meter.export.prefer == Prefer::Size
    }

    /// Whether a network with zeros may be larger: parameters are counted with them.
    fn zeros_pay(&self) -> bool {
        let targets = self.options.targets();
        targets.params.is_none() && (self.counts_bytes() || targets.instructions.is_some())
    }

    fn counts_bytes(&self) -> bool {
        let targets = self.options.targets();
        targets.model_bytes.is_some() || targets.flash.is_some()
    }

    /// The largest network of a recipe that the budget allows, by bisection over how many
    /// units have gone.
    fn largest(&self, recipe: &Recipe) -> Result<Candidate, SearchError> {
        let options = recipe.clone().into_options(self.options);
        let targets = options.targets();
        let whole = recipe.factorised(self.trained)?;
        let importance = importance(&whole, options.importance, &self.pictures.train)?;
        let shrinking = Shrinking::new(&whole, &importance, &recipe.preference);
        let over = |steps: usize, grown: fn(Cost) -> Cost| -> Result<Option<Over>, SearchError> {
            let smaller = shrinking.after(steps)?;
            // Nothing is exported where the parameters alone are too many.
            if let Some(most) = targets.params
                && smaller.parameters() as u64 > most
            {
                let is = Some(smaller.parameters() as u64);
                let key = "target_params";
                return Ok(Some(Over { key, is, most }));
            }
            let smaller = as_exported(smaller, &options)?;
            let (_, cost) = match targets.need_chip() {
                true => self.meter.measure(&smaller)?,
                false => self.meter.measure_file(&smaller)?,
            };
            Ok(targets.over(&grown(cost)))
        };
        if let Some(Over { key, is, most }) = over(shrinking.steps(), |cost| cost)? {
            let least = is;
            return Err(SearchError::Unreachable { key, most, least });
        }
        let (mut too_few, mut enough) = (0, shrinking.steps());
        if over(0, with_reserve)?.is_none() {
            enough = 0;
        }
        while enough > too_few + 1 {
            let middle = (too_few + enough) / 2;
            match over(middle, with_reserve)? {
                Some(_) => too_few = middle,
                None => enough = middle,
            }
        }
        Ok(Candidate {
            start: shrinking.after(enough)?,
            options,
        })
    }

    /// The recipe with 8 bits in the first layer and in the head, which are small and mind
    /// most, where it has fewer.
    fn ends_in_int8(&self, best: &Recipe) -> Vec<Recipe> {
        let network = &self.trained.network;
        let with_weights = network
            .nodes
            .iter()
            .filter(|node| network.params(node).is_some());
        let names: Vec<&String> = with_weights.map(|node| &node.name).collect();
        let (Some(PerLayer::All(bits)), [first, .., head]) = (&best.bits, names.as_slice()) else {
            return Vec::new();
        };
        let ends = [first, head].map(|name| ((*name).clone(), INT8));
        let bits = ends.into_iter().chain([(OTHERS.to_owned(), *bits)]);
        vec![Recipe {
            bits: Some(PerLayer::Named(bits.collect())),
            ..best.clone()
        }]
    }

    /// The dense layers over pictures, in which most parameters are.
    fn dense_over_pictures(&self) -> Vec<String> {
        let network = &self.trained.network;
        let reads_picture = |node: &Node| {
            let before = node.inputs[0].checked_sub(1).map(|at| &network.nodes[at]);
            let flat = before.is_some_and(|node| node.layer == Layer::Flatten);
            let input = network.input_of(node);
            flat || input.height() * input.width() > 1
        };
        self.names(|node| matches!(node.layer, Layer::Dense(_)) && reads_picture(node))
    }

    /// The convolutions over more than the network's input, whose few channels would
    /// leave few filters.
    fn inner_convolutions(&self) -> Vec<String> {
        self.names(|node| match node.layer {
            Layer::Conv2d(conv) => conv.kernel.area() > 1 && node.inputs[0] > 0,
            _ => false,
        })
    }

    fn names(&self, which: impl Fn(&Node) -> bool) -> Vec<String> {
        let nodes = self.trained.network.nodes.iter();
        nodes
            .filter(|node| which(node))
            .map(|node| node.name.clone())
            .collect()
    }

    /// The layers whose channels may go.
    fn layers(&self, recipe: &Recipe) -> Result<Vec<String>, SearchError> {
        let whole = recipe.factorised(self.trained)?;
        let head = whole.network.head()?.name.clone();
        let writes = |node: &&Node| {
            matches!(node.layer, Layer::Conv2d(_) | Layer::Dense(_)) && node.name != head
        };
        let layers = whole.network.nodes.iter().filter(writes);
        Ok(layers.map(|node| node.name.clone()).collect())
    }
}

/// The best so far.
struct Best {
    recipe: Recipe,
    accuracy: f64,
}

/// What has been tried.
struct Tried<'a> {
    search: &'a Search<'a>,
    validation: &'a Dataset,
    trials: Vec<Trial>,
    /// Why recipes could not be tried: of limits that could not be met, the nearest.
    failed: Option<SearchError>,
}

impl Tried<'_> {
    /// The least parameters, of the whole network's halves, quarters and so on, with which a trial
    /// does not lose more than `max_drop`: the limit where no other is given.
    fn smallest(&mut self, recipe: &Recipe) -> Result<usize, SearchError> {
        let search = self.search;
        let answers = answers(search.before, self.validation)?;
        let before = Score::new(self.validation, &answers).accuracy;
        let least = before - search.options.max_drop.unwrap_or_default() / 100.0;
        let mut params = search.trained.parameters();
        loop {
            let halved = Recipe {
                target_params: Some(params / 2),
                ..recipe.clone()
            };
            match self.one(&halved) {
                Ok(tried) if tried.accuracy >= least => params /= 2,
                Ok(_) | Err(SearchError::Unreachable { .. }) => return Ok(params),
                Err(error) => return Err(error),
            }
        }
    }

    /// Tries some recipes and keeps the best of them and of what was the best before.
    fn decide(
        &mut self,
        best: &mut Best,
        recipes: impl Fn(&Recipe) -> Vec<Recipe>,
    ) -> Result<(), SearchError> {
        for recipe in recipes(&best.recipe) {
            match self.one(&recipe) {
                Ok(tried) if tried.accuracy > best.accuracy => *best = tried,
                Ok(_) => {}
                Err(error) => self.skip(error)?,
            }
        }
        Ok(())
    }

    /// Keeps why a recipe could not be tried, where that is no reason to give up: it cannot be
    /// made small enough, its network has too many layers, or it diverged.
    fn skip(&mut self, error: SearchError) -> Result<(), SearchError> {
        let least = |error: &SearchError| match error {
            SearchError::Unreachable { least, .. } => Some(least.unwrap_or(u64::MAX)),
            _ => None,
        };
        match &error {
            SearchError::Unreachable { .. } => {}
            SearchError::Network(_) | SearchError::Train(TrainError::NotFinite { .. }) => {
                tracing::warn!("a recipe is left out: {error}");
            }
            _ => return Err(error),
        }
        let nearer = match (&self.failed, least(&error)) {
            (Some(failed), Some(new)) => least(failed).is_none_or(|old| new < old),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if nearer {
            self.failed = Some(error);
        }
        Ok(())
    }

    fn one(&mut self, recipe: &Recipe) -> Result<Best, SearchError> {
        let same = |trial: &&Trial| trial.recipe == *recipe;
        let known = self.search.known.iter().find(same).cloned();
        let trial = match known {
            Some(trial) => trial,
            None => self.train(recipe)?,
        };
        let accuracy = trial.accuracy;
        self.trials.push(trial);
        (self.search.report)(&self.trials);
        Ok(Best {
            recipe: recipe.clone(),
            accuracy,
        })
    }

    fn train(&self, recipe: &Recipe) -> Result<Trial, SearchError> {
        let search = self.search;
        let Candidate { start, options } = search.largest(recipe)?;
        let widths = widths(&start);
        // Where a limit or a preference changes nothing, the answer is known.
        let same = |trial: &&Trial| {
            let as_here = Recipe {
                target_params: recipe.target_params,
                preference: recipe.preference.clone(),
                ..trial.recipe.clone()
            };
            trial.widths == widths && as_here == *recipe
        };
        if let Some(same) = self.trials.iter().find(same) {
            return Ok(Trial {
                recipe: recipe.clone(),
                ..same.clone()
            });
        }
        let options = CompressOptions {
            epochs: search.options.trial_epochs,
            steps: None,
            ..options
        };
        let hooks = Hooks {
            stop: search.stop,
            label: "trial",
            ..Hooks::default()
        };
        let (train, data) = (search.train, &search.pictures.train);
        let tuned = finetune(
            start,
            search.teacher,
            data,
            &options,
            train,
            search.augmentation,
            &hooks,
        )?;
        let (bytes, cost) = search.meter.measure(&tuned)?;
        Ok(Trial {
            recipe: recipe.clone(),
            widths,
            cost,
            accuracy: simulate(&Model::parse(&bytes)?, self.validation)?.accuracy,
        })
    }
}

/// With the zeros and on the grids that it will be trained to.
fn as_exported(
    checkpoint: Checkpoint,
    options: &CompressOptions,
) -> Result<Checkpoint, NetworkError> {
    let mut checkpoint = match options.has_grids() {
        true => checkpoint.without_batch_norm()?,
        false => checkpoint,
    };
    zero_smallest(&mut checkpoint, options.sparsity(), options.scope);
    if options.has_grids() {
        fit_grids(&mut checkpoint, options);
        checkpoint.snap_to_grids();
    }
    Ok(checkpoint)
}

/// Recipes that factorise some layers, where there are any.
fn ranks(best: &Recipe, layers: &[String]) -> Vec<Recipe> {
    if layers.is_empty() {
        return Vec::new();
    }
    let ranks = RANKS.iter().filter_map(|&rank| NonZeroU8::new(rank));
    let recipes = ranks.map(|rank| best.with_ranks(layers, rank));
    recipes.filter(|recipe| recipe != best).collect()
}

/// The recipe with as many values as its bits have, but chosen to fit.
fn as_codebooks(best: &Recipe) -> Vec<Recipe> {
    let values = |bits: u8| u8::MAX >> (u8::BITS as u8 - bits.min(8));
    let share = best.bits.as_ref().map(|bits| bits.map(values));
    let recipe = |share| Recipe {
        bits: None,
        share: Some(share),
        ..best.clone()
    };
    share.map(recipe).into_iter().collect()
}

/// The channels that layers with weights write.
pub fn widths(checkpoint: &Checkpoint) -> Vec<(String, usize)> {
    let network = &checkpoint.network;
    let nodes = network
        .nodes
        .iter()
        .filter(|node| network.params(node).is_some());
    nodes
        .map(|node| (node.name.clone(), node.output.channels()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::cost::OnChip;

    #[test]
    fn room_for_trained_codes_is_kept_where_the_model_lies() {
        let cost = Cost {
            params: 0,
            nonzeros: 0,
            distinct: 0,
            model_bytes: 1000,
            arena_bytes: 0,
            macs: 0,
            on_chip: Some(OnChip {
                flash_bytes: 41_000,
                ram_bytes: 0,
                instructions: 0,
            }),
        };
        let over = |targets: Targets| targets.over(&with_reserve(cost.clone()));
        let model = |most| Targets {
            model_bytes: Some(most),
            ..Targets::default()
        };
        let flash = |most| Targets {
            flash: Some(most),
            ..Targets::default()
        };
        // 1000 bytes are 97 % of 1031; the firmware does not grow.
        assert!(over(model(1030)).is_some() && over(model(1031)).is_none());
        assert!(over(flash(41_030)).is_some() && over(flash(41_031)).is_none());
    }
}
