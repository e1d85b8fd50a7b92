"""How a run's flags come about: from the command line, and from the checkpoint that it resumes or starts from."""

from imagernn.errors import InputError
from imagernn.runs.checkpoints import newest_resumable
from imagernn.runs.flags import require_near, require_same, sound_params
from imagernn.runs.ranks import world


def chosen_params(parser, argv, load, load_resumable, model_params, run_params, earlier=None):
    """The command line as a dict; and the checkpoint that the run starts from, or None.

    load(path), load_resumable(path): a checkpoint that was checked; InputError for any other file. model_params: the
    flags that a checkpoint's arrays decide; run_params: those that a resumed run cannot change either. earlier: the
    values of flags that checkpoints of early versions do not have. Under mpirun the first rank alone reads the file.
    """
    return world().from_first(lambda: _chosen_params(parser, argv, load, load_resumable, model_params, run_params,
                                                     earlier or {}))


def _chosen_params(parser, argv, load, load_resumable, model_params, run_params, earlier):
    args = parser.parse_args(argv)
    if args.resume not in ('', 'auto') and args.init_model_from:
        raise InputError('--resume and --init_model_from exclude each other: the first continues a run, the second '
                         'starts a new one')
    checkpoint = None
    if args.resume == 'auto':
        args.resume, checkpoint = newest_resumable(vars(args), load_resumable)
    elif args.resume:
        checkpoint = load_resumable(args.resume)
    elif args.init_model_from:
        checkpoint = load(args.init_model_from)
    if checkpoint is None:
        return {**vars(args)}, None
    return with_saved_params(parser, argv, args, checkpoint, model_params, run_params, earlier), checkpoint


def with_saved_params(parser, argv, args, checkpoint, model_params, run_params, earlier):
    """The command line, with a checkpoint's flags as defaults: all of a run, or with --init_model_from the model's."""
    path = args.resume or args.init_model_from
    if args.resume:
        keep = set(vars(args)) - {'features', 'resume', 'init_model_from', 'profile', 'allow_changed_data'}
    else:
        keep = {*model_params, 'word_count_threshold'}
    saved = {name: value for name, value in checkpoint['params'].items() if name in keep}
    parser.set_defaults(**sound_params(parser, path, saved))
    params = {**vars(parser.parse_args(argv)), 'resume': args.resume}
    fixed = (*model_params, *(run_params if args.resume else ()))
    require_same(params, {**earlier, **checkpoint['params']}, path, fixed, run_params)
    # the vocabulary is the checkpoint's
    params['word_count_threshold'] = saved.get('word_count_threshold', params['word_count_threshold'])
    if args.resume:
        require_near(params, vars(args), path)
    return params
