"""Watches a scripted trainer by torch's own hooks, and compares all that it does with the plain formulas."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from plain_training import (
    PlainAdamW,
    PlainResponse,
    aggregate,
    correction_weights,
    entropies,
    group_advantages,
    learning_rate,
    nucleus_entropies,
    of_tokens,
    peak_mean,
    per_token_loss,
    policy_ratio,
    token_advantages,
)
from scripted_trainer import CUT, SCRIPT, scripted_problems, tokenised

from mmhicra.config import LoraConfig
from mmhicra.hicra.planning import planning_mask
from mmhicra.vlm.processing import PromptBuilder

CONTINUED = LoraConfig(rank=2, alpha=6)
"""What the adapter is like that a case of `model.adapter` continues."""
RELATIVE = 3e-5
"""Two float32 forward passes of different shapes agree to this share of the largest number."""


class Witness:
    """What a trainer should do, told by its configuration alone.

    Attributes:
        updates: of the current step: the responses of each.
        numbers: of the current step: name of a metric -> what its mean is taken over.
    """

    def __init__(self, trainer, plain, loaded):
        self.trainer, self.plain, self.config, self.tokenizer = trainer, plain, trainer.config, loaded.tokenizer
        train = self.config.train
        self.adam, self.lora, self.siren = PlainAdamW(train.optimizer), self.config.model.lora, train.loss.siren
        self.step, self.anchor, self.alpha = 0, None, self.first_alpha()
        self.losses, self.seen = [], []
        self.first = {name: parameter.detach().clone() for name, parameter in self.trained().items()}
        builder = PromptBuilder(loaded.processor, loaded.family, loaded.config, self.config.data)
        self.prompts = {problem.id: builder.build(problem) for problem in scripted_problems()}
        self.names = {
            tuple(tokenised(self.tokenizer, pieces)[0]): (problem, number)
            for problem, responses in SCRIPT.items()
            for number, (pieces, _) in enumerate(responses)
        }
        backward = trainer.accelerator.backward
        trainer.accelerator.backward = lambda loss: (self.losses.append(loss.item()), backward(loss))
        trainer.policy.register_forward_pre_hook(self.look)
        trainer.optimizer.register_step_pre_hook(lambda *_: self.before_update())
        trainer.optimizer.register_step_post_hook(lambda *_: self.after_update())

    def look(self, module, arguments):
        """Note the responses of a forward pass with gradients."""
        if torch.is_grad_enabled():
            (batch,) = arguments
            lengths = torch.bincount(batch.sequence).tolist()
            self.seen += [self.names[tuple(ids.tolist())] for ids in batch.targets.split(lengths)]

    def trained(self):
        """Name -> the trainer's own parameter."""
        return {n: p for n, p in self.trainer.unwrapped.model.named_parameters() if p.requires_grad}

    def now(self):
        """The stock model's weights as they are trained so far."""
        return self.with_trained({n: p.detach() for n, p in self.trained().items()})

    def with_trained(self, trained):
        """The stock model's weights with `trained` put in, adapters multiplied out and added."""
        weights = self.plain.weights()
        if not self.config.model.has_adapters:
            return {**weights, **trained}
        for name, tensor in trained.items():
            plain = name.removeprefix("base_model.model.")
            if ".modules_to_save.default." in plain:
                weights[plain.replace(".modules_to_save.default.", ".")] = tensor
            elif ".lora_A." in plain:
                base, ends = plain.replace(".lora_A.default", ""), (".lora_B.", ".lora_magnitude_vector.")
                product, length = (trained.get(name.replace(".lora_A.", end)) for end in ends)
                merged = weights[base] + self.scale(base, len(tensor)) * product @ tensor
                if length is not None:  # DoRA: the norm is no part of the gradient
                    merged = (length / merged.norm(dim=1).detach())[:, None] * merged
                weights[base] = merged
        return weights

    def scale(self, layer, rank):
        """What the product of a layer's adapter is multiplied with."""
        lora = self.lora or CONTINUED
        alpha = next((own for end, own in lora.alpha_pattern.items() if end in layer), lora.alpha)
        return alpha / (math.sqrt(rank) if lora.rslora else rank)

    def logprobs(self, weights, response):
        """(R, V)."""
        return self.plain.logprobs(weights, response.prompt, response.ids, self.config.rollout.temperature)

    def peak(self, logprobs):
        """SIREN's entropy of one response."""
        return peak_mean(nucleus_entropies(logprobs, self.siren.top_p), self.siren.quantile)

    def first_alpha(self):
        """Alpha of the first step."""
        return 0.0 if self.config.credit.method in ("grpo", "entropy") else self.config.hicra.alpha

    @torch.no_grad()
    def begin_step(self):
        """All that is known of the kept groups' responses before the step's first update."""
        self.step, self.updates, self.numbers = self.trainer.step_number, [], defaultdict(list)
        self.responses, weights = {}, self.now()
        for group in self.trainer.collector.engine.groups:
            problem = group.prompt.problem.id
            rewards = [total for _, total in SCRIPT[problem]]
            if len(set(rewards)) > 1:
                bases = group_advantages(rewards, self.config.credit.scale)
                for number, base in enumerate(bases):
                    if self.config.train.mask_truncated and (problem, number) in CUT:
                        continue  # it has counted in its group's advantages
                    self.responses[problem, number] = self.response(group, number, base, weights)
        if self.siren and self.anchor is None:
            peaks = [float(self.peak(self.logprobs(weights, r))) for r in self.responses.values()]
            self.anchor = sum(peaks) / len(peaks)

    def response(self, group, number, base, weights):
        """One response with its advantages."""
        problem, completion = group.prompt.problem.id, group.completions[number]
        ids, planning = tokenised(self.tokenizer, SCRIPT[problem][number][0])
        known = PlainResponse(self.prompts[problem], ids, torch.tensor(planning), torch.tensor(completion.logprobs))
        full = self.logprobs(weights, known)
        known.old, known.entropy = of_tokens(full, ids), entropies(full)
        if self.config.train.loss.kl_coefficient:
            continued = self.config.model.continues_adapter and self.config.train.loss.kl_reference == "start"
            reference = self.with_trained(self.first) if continued else self.plain.weights()
            known.reference = of_tokens(self.logprobs(reference, known), ids)
        drawn = self.trainer.credit_assigner.placebo
        placebo = drawn and planning_mask(ids, self.tokenizer, drawn.gram_library)
        signals = {"planning": known.planning, "placebo": placebo, "entropy": known.entropy}
        known.advantages = token_advantages(base, self.config.credit, self.alpha, **signals)
        return known

    def before_update(self):
        """The sum of the losses and every gradient that an optimizer step is about to use."""
        if self.step != self.trainer.step_number:
            self.begin_step()
        leaves = {name: p.detach().clone().requires_grad_() for name, p in self.trained().items()}
        loss, value = self.objective(self.with_trained(leaves))
        found = {name: p.grad for name, p in self.trained().items()}
        wanted = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))
        wanted = {name: torch.zeros_like(leaves[name]) if g is None else g for name, g in wanted.items()}
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in wanted.values()))
        scale = min(1.0, self.config.train.optimizer.max_grad_norm / max(norm, 1e-30))
        largest = max(float(gradient.norm()) for gradient in wanted.values()) * scale
        for name, gradient in wanted.items():
            own = torch.zeros_like(gradient) if found[name] is None else found[name]
            error = float((own - gradient * scale).norm()) / max(float(gradient.norm()) * scale, 1e-2 * largest, 1e-30)
            assert error < 10 * RELATIVE, f"step {self.step}, update {len(self.updates)}, {name}: {error:.1e}"
        assert abs(sum(self.losses) - value) < RELATIVE * self.terms, f"loss {sum(self.losses)}, not {value}"
        self.numbers["optimizer/grad_norm"].append(torch.tensor([norm]))
        self.updates.append(self.seen)
        self.losses, self.seen = [], []
        self.gradients = {name: p.grad.clone() for name, p in self.trained().items() if p.grad is not None}
        self.weights = {name: p.detach().clone() for name, p in self.trained().items()}

    def objective(self, weights):
        """The loss whose gradient is wanted, and the value that the trainer's micro-batches should add up to."""
        options, losses, peaks = self.config.train.loss, [], []
        for name in self.seen:
            response = self.responses[name]
            full = self.logprobs(weights, response)
            new, entropy = of_tokens(full, response.ids), entropies(full)
            if self.config.train.minibatches * self.config.train.epochs == 1:
                assert torch.allclose(new, response.old, atol=1e-4)  # on-policy: the ratio is exactly 1
                response.old = new.detach()
            losses.append(per_token_loss(options, response, new, entropy))
            if self.siren:
                peaks.append(self.peak(full))
            self.note(response, new.detach(), entropy.detach(), losses[-1].detach())
        self.terms = max(aggregate([x.detach().abs() for x in losses], options.aggregation, self.longest).item(), 1e-3)
        loss = aggregate(losses, options.aggregation, self.longest)
        if not self.siren:
            return loss, loss.item()
        mean, coefficient = torch.stack(peaks).mean(), self.siren.coefficient
        self.numbers["siren/peak_entropy"].append(mean.detach().reshape(1))
        self.numbers["siren/loss"].append(coefficient * (mean.detach() - self.anchor).reshape(1) ** 2)
        # The trainer multiplies the mean by the known slope of the square, whose value is another.
        linear = 2 * coefficient * (mean.item() - self.anchor) * mean.item()
        self.terms += 2 * coefficient * mean.item()  # H and its anchor cancel
        return loss + coefficient * (mean - self.anchor) ** 2, loss.item() + linear

    @property
    def longest(self):
        """What Dr. GRPO divides by."""
        return self.config.rollout.max_new_tokens

    def note(self, response, new, entropy, loss):
        """What one response adds to the metrics of its step."""
        options, correction = self.config.train.loss, self.config.train.loss.correction
        ratio, planning, positive = (
            policy_ratio(new, response.old, options.ratio),
            response.planning,
            response.advantages > 0,
        )
        gap = (response.old - response.engine).abs()
        for name, values in {
            "loss/per_token": loss,
            "loss/ratio": ratio,
            "loss/clipped_low": ((ratio < 1 - options.clip_low) & (response.advantages < 0)).float(),
            "loss/clipped_high": ((ratio > 1 + options.clip_high) & positive).float(),
            "entropy/all": entropy,
            "entropy/planning": entropy[planning],
            "entropy/execution": entropy[~planning],
            "logprob/planning": new[planning],
            "logprob/execution": new[~planning],
            "engine/logprob_gap": gap,
            "engine/probability_error": gap.exp(),
        }.items():
            self.numbers[name].append(values)
        if correction:
            weights = correction_weights(response, correction)
            self.numbers["loss/correction"].append(weights)
            self.numbers["loss/correction_limited"].append(((weights == 0) | (weights >= correction.limit)).float())
        if options.kl_coefficient:
            away = response.reference - new
            self.numbers["loss/kl"].append(away.exp() - 1 - away)

    def after_update(self):
        """The weights that an optimizer step left behind."""
        train = self.config.train
        per_step = train.minibatches * train.epochs
        rate = learning_rate(train.optimizer, self.adam.steps, train.steps * per_step)
        wanted = self.adam.step(self.weights, self.gradients, rate)
        for name, parameter in self.trained().items():
            if name in wanted:
                moved = (wanted[name] - self.weights[name]).abs().max()
                error = (parameter.detach() - wanted[name]).abs().max()
                assert error <= 1e-4 * moved + 1e-7, f"update {self.adam.steps}, {name}: {error:.1e} of {moved:.1e}"
        self.numbers["optimizer/learning_rate"].append(torch.tensor([rate]))

    def end_step(self, metrics):
        """The metrics of the step, and the order in which the kept responses were trained on."""
        for name, values in self.numbers.items():
            wanted = float(torch.cat(values).double().mean())
            assert abs(metrics[name] - wanted) < 2e-4 * max(1.0, abs(wanted)), f"{name}: {metrics[name]}, not {wanted}"
        assert metrics["optimizer/learning_rate"] == torch.cat(self.numbers["optimizer/learning_rate"]).mean()
        largest = {name: float(torch.cat(self.numbers[name]).max()) for name in ("loss/ratio", "engine/logprob_gap")}
        for name, value in largest.items():
            assert abs(metrics[f"{name}_max"] - value) < 1e-4 * max(1.0, value)
        assert abs(metrics["hicra/alpha"] - self.alpha) < 1e-5
        assert metrics["response/truncated"] == len(CUT) / 12
        assert metrics.get("rollout/masked_truncated") == (len(CUT) if self.config.train.mask_truncated else None)
        self.compare_credit(metrics)
        self.alpha = self.next_alpha(metrics)
        assert len(self.updates) == self.config.train.updates_per_step
        kept = sorted(self.responses)
        parts = self.config.train.minibatches
        for first in range(0, len(self.updates), parts):  # every epoch trains on every response once, groups whole
            assert sorted(name for update in self.updates[first : first + parts] for name in update) == kept
        for update in self.updates:
            problems = {problem for problem, _ in update}
            assert len(update) == sum(problem in problems for problem, _ in kept)

    def compare_credit(self, metrics):
        """Where the advantages of the kept responses fell, and how dense the placebo is in all responses."""
        responses = list(self.responses.values())
        advantages, planning = (torch.cat([getattr(r, name) for r in responses]) for name in ("advantages", "planning"))
        for name, chosen in (("planning", planning), ("execution", ~planning)):
            assert abs(metrics[f"advantage/{name}_mean"] - float(advantages[chosen].mean())) < 1e-4, name
        placebo = [c.placebo for group in self.trainer.collector.engine.groups for c in group.completions]
        assert ("placebo/density" in metrics) == (placebo[0] is not None)
        if placebo[0] is not None:
            assert abs(metrics["placebo/density"] - float(torch.cat(placebo).float().mean())) < 1e-6

    def compare_records(self, rollouts):
        """What the rollout files are written from: every completion as it was before the first update."""
        assert [group.prompt.problem.id for group in rollouts.dropped] == ["p2"]
        for group in rollouts.kept:
            for number, completion in enumerate(group.completions):
                if self.config.train.mask_truncated and (group.prompt.problem.id, number) in CUT:
                    assert not completion.advantages.any()
                    continue
                known = self.responses[group.prompt.problem.id, number]
                for own, wanted in (
                    (completion.old_logprobs, known.old),
                    (completion.entropy, known.entropy),
                    (completion.advantages, known.advantages),
                ):
                    assert torch.allclose(own, wanted, atol=1e-4)
                assert completion.planning.tolist() == known.planning.tolist()

    def compare_engine(self):
        """What the engine was told in a step: all problems, the run's seed and the step, and then the new weights."""
        (name, *told), sleep, (sync, weights) = self.trainer.collector.engine.calls[-3:]
        assert (name, sleep, sync) == ("generate", ("sleep",), "sync")
        assert told == [sorted(self.prompts), self.config.seed, self.step]
        assert all(torch.equal(weights[name], p) for name, p in self.trained().items())

    @torch.no_grad()
    def next_alpha(self, metrics):
        """Alpha of the coming step."""
        hicra = self.config.hicra
        if hicra.schedule:
            start, end, steps = self.first_alpha(), hicra.schedule.end, hicra.schedule.steps
            return end if self.step + 1 >= steps else start + (end - start) * self.step / (steps - 1)
        if not hicra.adaptive:
            return self.alpha
        responses = list(self.responses.values())
        if hicra.adaptive.signal == "mass":
            praise = torch.cat([r.advantages.clamp(min=0) for r in responses])
            measured = float(praise[torch.cat([r.planning for r in responses])].sum() / praise.sum())
        else:
            away = torch.cat([of_tokens(self.logprobs(self.now(), r), r.ids) - r.old for r in responses])
            measured = float((away.exp() - 1 - away).mean())
        assert abs(metrics[f"hicra/{hicra.adaptive.signal}"] - measured) < 1e-4 * measured
        error = max(-1.0, min(1.0, (hicra.adaptive.target - measured) / hicra.adaptive.target))
        alpha = self.alpha + hicra.adaptive.rate * error
        return max(hicra.adaptive.minimum, min(hicra.adaptive.maximum, alpha))
