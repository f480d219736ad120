"""A trained model as a SageMaker endpoint, with serve.py's container; and its removal.

    docker build -f cloud/Dockerfile --target sagemaker -t ACCOUNT.dkr.ecr.REGION.amazonaws.com/scratchgpt .   # and push it
    python cloud/sagemaker.py --out_dir=out/gpt2 --name=my-gpt2 --bucket=BUCKET --image=URI --role=ARN --dry_run
    python cloud/sagemaker.py --out_dir=out/gpt2 --name=my-gpt2 --bucket=BUCKET --image=URI --role=ARN
    python cloud/sagemaker.py --name=my-gpt2 --bucket=BUCKET --delete

    aws sagemaker-runtime invoke-endpoint --endpoint-name my-gpt2 --content-type application/json \\
        --cli-binary-format raw-in-base64-out --body '{"prompt": "Once upon a time", "max_tokens": 50}' /dev/stdout

Needs boto3 (pip install boto3), which takes the account's keys and region from where the AWS command line has them.
What a deployment consists of is one list of calls: the dry run prints it, the deployment makes it. An endpoint costs
money until it is deleted. This file knows nothing of models but that export.py writes them.
"""
import json
import os
import re
import sys
import tarfile
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import export
import pretrained
from configurator import choice, configure, optional
from runtime.errors import BadInput, one_line_errors

DEFAULTS = {
    # model
    'out_dir': 'out',  # a run's folder: its newest checkpoint is taken
    'init_from': optional(str),  # instead of out_dir: a checkpoint file, Hugging Face folder, or gpt2[-medium|-large|-xl]
    'dtype': choice('bfloat16', 'float32', 'float16'),  # of the weights in the archive
    # deployment
    'name': 'scratchgpt',  # of the model, the endpoint and its configuration
    'bucket': optional(str),  # S3 bucket that takes NAME/model.tar.gz
    'image': optional(str),  # the container's URI in ECR
    'role': optional(str),  # ARN of the role that the endpoint runs as; it reads the bucket and the image
    'instance_type': 'ml.g5.xlarge',  # machine of the endpoint; ml.m5.xlarge has no GPU
    'instances': 1,  # how many of them
    'region': optional(str),  # None: as the AWS command line has it
    'wait': True,  # until the endpoint answers, some minutes
    # what to do
    'dry_run': False,  # print the calls and make none
    'delete': False,  # remove endpoint, configuration, model and archive
}
STARTUP_S = 900  # for the container to load the model and answer /ping
NOT_THERE = ('ValidationException', 'NoSuchKey', '404')


def main(config):
    check(config)
    if config['delete']:
        make(deletion(config), config, missing_is_fine=True)
        return
    if config['dry_run']:
        make(deployment(config, 'model.tar.gz'), config)
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = pack(config, folder)
        make(deployment(config, archive), config)
    print(f'endpoint {config["name"]} {"answers" if config["wait"] else "is being made"}; '
          f'it costs money until `python cloud/sagemaker.py --name={config["name"]} --bucket={config["bucket"]} --delete`')


def check(config):
    """Raises BadInput for what AWS would refuse after the upload."""
    needed = ('bucket',) if config['delete'] else ('bucket', 'image', 'role')
    missing = [f'--{key}=...' for key in needed if not config[key]]
    if missing:
        raise BadInput(f'{" ".join(missing)} {"is" if len(missing) == 1 else "are"} needed; --help says what for')
    if not re.fullmatch(r'[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}', config['name']):
        raise BadInput(f'name={config["name"]} should have up to 63 letters, digits and dashes, as SageMaker wants')
    if config['instances'] < 1:
        raise BadInput(f'instances={config["instances"]} should be at least 1')


def pack(config, folder):
    """Path of model.tar.gz in `folder`: the model as export.py writes it, without optimizer states."""
    model, tokenizer, source = pretrained.load(config['init_from'] or config['out_dir'], strict=True)
    exported = os.path.join(folder, 'model')
    export.export(model, tokenizer, exported, export.hardware.DTYPES[config['dtype']])
    archive = os.path.join(folder, 'model.tar.gz')
    with tarfile.open(archive, 'w:gz', compresslevel=1) as tar:  # weights hardly get smaller
        for name in sorted(os.listdir(exported)):
            tar.add(os.path.join(exported, name), name, filter=anonymous)
    print(f'{source}: {model.n_params():,} parameters, archive of {os.path.getsize(archive) / 1e6:.1f} MB', file=sys.stderr)
    return archive


def anonymous(member):
    """A file's entry in the archive without who made it on which machine; readable for whoever runs the server."""
    member.uid = member.gid = 0
    member.uname = member.gname = ''
    member.mode = 0o644
    return member


def deployment(config, archive):
    """The calls that deploy, as [(service, method, arguments)]; `wait` stands for a waiter."""
    name, bucket, key = config['name'], config['bucket'], archive_key(config)
    calls = [
        ('s3', 'upload_file', {'Filename': archive, 'Bucket': bucket, 'Key': key}),
        ('sagemaker', 'create_model', {
            'ModelName': name, 'ExecutionRoleArn': config['role'],
            'PrimaryContainer': {'Image': config['image'], 'ModelDataUrl': f's3://{bucket}/{key}'}}),
        ('sagemaker', 'create_endpoint_config', {
            'EndpointConfigName': name,
            'ProductionVariants': [{
                'VariantName': 'main', 'ModelName': name, 'InstanceType': config['instance_type'],
                'InitialInstanceCount': config['instances'], 'InitialVariantWeight': 1.0,
                'ContainerStartupHealthCheckTimeoutInSeconds': STARTUP_S}]}),
        ('sagemaker', 'create_endpoint', {'EndpointName': name, 'EndpointConfigName': name}),
    ]
    return calls + ([('sagemaker', 'wait', {'waiter': 'endpoint_in_service', 'EndpointName': name})] if config['wait'] else [])


def deletion(config):
    """The calls that remove all that `deployment` made, in the opposite order."""
    name = config['name']
    return [
        ('sagemaker', 'delete_endpoint', {'EndpointName': name}),
        ('sagemaker', 'delete_endpoint_config', {'EndpointConfigName': name}),
        ('sagemaker', 'delete_model', {'ModelName': name}),
        ('s3', 'delete_object', {'Bucket': config['bucket'], 'Key': archive_key(config)}),
    ]


def archive_key(config):
    return f'{config["name"]}/model.tar.gz'


def make(calls, config, missing_is_fine=False):
    """Makes the calls one after the other, or prints them all if it is a dry run. Raises BadInput where AWS refuses."""
    if config['dry_run']:
        for service, method, arguments in calls:
            print(f'{service}.{method} {json.dumps(arguments)}')
        return
    try:
        import boto3
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise BadInput('boto3 is missing; pip install boto3, or --dry_run to see the calls') from None
    for service, method, arguments in calls:
        try:
            client = boto3.client(service, region_name=config['region'])
            if method == 'wait':
                waited = {key: value for key, value in arguments.items() if key != 'waiter'}
                client.get_waiter(arguments['waiter']).wait(**waited)
            else:
                getattr(client, method)(**arguments)
            print(f'{service}.{method}: done', file=sys.stderr)
        except (Boto3Error, BotoCoreError, ClientError) as error:
            code = getattr(error, 'response', {}).get('Error', {}).get('Code')
            if not (missing_is_fine and code in NOT_THERE):
                undo = '' if missing_is_fine else f'; --delete --name={config["name"]} removes what was made before it'
                raise BadInput(f'{service}.{method}: {" ".join(str(error).split())}{undo}') from None
            print(f'{service}.{method}: was not there', file=sys.stderr)


if __name__ == '__main__':
    with one_line_errors():
        main(configure(DEFAULTS))
