"""Tasks that are reported together: GPT-2's own table, and CORE. Knows nothing of how they are measured."""
from evals.tasks import DEFAULT

SIZES = 'gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl'

# Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 3, zero-shot. The paper calls the sizes
# 117M, 345M, 762M and 1542M. A row: its name there, the task and metric here, a factor, and the four published figures.
TABLE_3 = [
    ('LAMBADA (PPL)', 'lambada_gpt2', 'perplexity', 1, (35.13, 15.60, 10.87, 8.63)),
    ('LAMBADA (ACC)', 'lambada_gpt2', 'acc_stop_words', 100, (45.99, 55.48, 60.12, 63.24)),
    ('CBT-CN (ACC)', 'cbt_cn', 'acc', 100, (87.65, 92.35, 93.45, 93.30)),
    ('CBT-NE (ACC)', 'cbt_ne', 'acc', 100, (83.4, 87.1, 88.0, 89.05)),
    ('WikiText2 (PPL)', 'wikitext2_gpt2', 'word_perplexity', 1, (29.41, 22.76, 19.93, 18.34)),
    ('PTB (PPL)', 'ptb', 'word_perplexity', 1, (65.85, 47.33, 40.31, 35.76)),
    ('enwik8 (BPB)', 'enwik8', 'bits_per_byte', 1, (1.16, 1.01, 0.97, 0.93)),
    ('text8 (BPC)', 'text8', 'bits_per_byte', 1, (1.17, 1.06, 1.02, 0.98)),
    ('WikiText103 (PPL)', 'wikitext103_gpt2', 'word_perplexity', 1, (37.50, 26.37, 22.05, 17.48)),
    ('1BW (PPL)', 'lm1b', 'word_perplexity', 1, (75.20, 55.72, 44.575, 42.16)),
]

# Li et al. 2024, "DataComp-LM", section 3.5 and appendix G: the mean over 22 tasks of (accuracy - chance) / (1 - chance).
# Here are those of its tasks that are built: {task, with the number of examples: (metric, chance)}. The chance of boolq is
# the share of its commoner answer.
CORE_SIZE = 22
CORE = {
    'hellaswag': ('acc_token', 0.25), 'hellaswag@10': ('acc_token', 0.25), 'piqa@10': ('acc_token', 0.5),
    'arc_easy@10': ('acc_token', 0.25), 'arc_challenge@10': ('acc_token', 0.25), 'copa': ('acc_token', 0.5),
    'openbookqa': ('acc_token', 0.25), 'winogrande': ('acc', 0.5), 'boolq@10': ('acc_token', 0.62), 'lambada': ('acc', 0.0),
}
GROUPS = {'gpt2paper': list(dict.fromkeys(task for _, task, *_ in TABLE_3)), 'core': list(CORE), 'default': DEFAULT.split(',')}


def core(results: dict[str, dict]) -> dict | None:
    """{'centered': mean, 'centered_stderr', 'tasks': {name: centered accuracy}, 'of': 22} from the scores of the tasks of CORE;
    None if one of them is missing."""
    if not CORE.keys() <= results.keys():
        return None
    centered = {name: (results[name][metric] - chance) / (1 - chance) for name, (metric, chance) in CORE.items()}
    variance = sum((results[name][f'{metric}_stderr'] / (1 - chance)) ** 2 for name, (metric, chance) in CORE.items())
    return {'centered': sum(centered.values()) / len(CORE), 'centered_stderr': variance ** 0.5 / len(CORE), 'tasks': centered,
            'of': CORE_SIZE}
